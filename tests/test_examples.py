"""The examples: each runs as its docstring says, and learns digits to a stated accuracy."""

import importlib
import importlib.util
import re
import warnings
from pathlib import Path

import pytest

import prebake
from prebake.precompute.images import SourceData
from tests.helpers.trials import trial

EXAMPLES = Path(__file__).parent.parent / "examples"
LIGHTNING = pytest.mark.skipif(
    importlib.util.find_spec("lightning") is None, reason="lightning is not installed: pip install -e '.[examples]'"
)
# On six epochs; the last is a small net without convolutions, in batches of 128.
LEAST = [
    ("plain_loop", 0.90),
    pytest.param("lightning_loop", 0.90, marks=LIGHTNING),
    ("webdataset_loop", 0.87),
]


@pytest.fixture(scope="module")
def six_epochs(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six epochs of digits."""
    train, test = digits.splits["train"], digits.splits["test"]
    out = tmp_path_factory.mktemp("six") / "digits"
    prebake.bake(
        train.images_NHWC,
        train.labels_N,
        test=(test.images_NHWC, test.labels_N),
        classes=digits.classes,
        name="digits",
        epochs=6,
        out=out,
    )
    return out


@pytest.mark.parametrize(("name", "least"), LEAST)
def test_an_example_prints_an_accuracy_that_shows_it_has_learnt(name: str, least: float, six_epochs: Path) -> None:
    def run() -> None:
        warnings.resetwarnings()  # those of other people's loops are not ours
        importlib.import_module(f"examples.{name}").main(str(six_epochs))

    ended = trial(run, seconds=300)  # Lightning alone may take half a minute to import
    assert ended.status == 0, ended.said
    (accuracy,) = re.findall(r"^test accuracy (\d\.\d{4})$", ended.said, re.M)
    assert least <= float(accuracy) <= 1


def test_every_example_is_run_here_and_says_how_to_run_it() -> None:
    there = {path.stem for path in EXAMPLES.glob("*.py")} - {"__init__"}
    assert there == {"plain_loop", "lightning_loop", "webdataset_loop"}
    for name in there:
        assert f"python -m examples.{name} shards/digits" in (EXAMPLES / f"{name}.py").read_text()


def test_the_webdataset_example_needs_nothing_of_ours() -> None:
    code = (EXAMPLES / "webdataset_loop.py").read_text()
    assert not re.search(r"^\s*(from|import) (shards|precompute|train)\b", code, re.M)
