"""The examples: each learns digits, and resumes after a kill at the very next batch."""

import ast
import importlib
import os
import re
import warnings
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import prebake
from prebake import Loader, ShardSet
from prebake.precompute.images import SourceData
from tests.helpers.trials import Trial, trial

EXAMPLES = Path(__file__).parent.parent / "examples"
MAX_CODE_LINES = 30
EPOCHS, BATCH_SIZE, STEPS_PER_EPOCH = 6, 64, 23
KILLED_AT = 58  # the batch in whose step the process dies, in the third epoch
# The number of steps that the last checkpoint before that holds. Two loops save after each epoch, two every ten steps.
RESUMABLE = {"plain_loop": 46, "accelerate_loop": 46, "lightning_loop": 50, "huggingface_trainer": 50}
PACKAGES = {"accelerate_loop": "accelerate", "lightning_loop": "lightning", "huggingface_trainer": "transformers"}


def examples(names: list[str]) -> list[object]:
    """Return parameters, those skipped whose package is not installed."""
    reason = "not installed: pip install -e '.[examples]'"
    return [
        pytest.param(name, marks=pytest.mark.skipif(find_spec(PACKAGES.get(name, "torch")) is None, reason=reason))
        for name in names
    ]


@pytest.fixture(scope="module")
def six_epochs(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Six epochs of digits."""
    train, test = digits.splits["train"], digits.splits["test"]
    out = tmp_path_factory.mktemp("six") / "digits"
    prebake.bake(
        train.images_NHWC,
        train.labels_N,
        test=(test.images_NHWC, test.labels_N),
        classes=digits.classes,
        name="digits",
        recipe="digits",
        epochs=EPOCHS,
        out=out,
    )
    return ShardSet(out)


def played(data: ShardSet) -> list[str]:
    """Return a checksum of each batch of all epochs, in order."""
    with Loader(data, batch_size=BATCH_SIZE, drop_last=True) as loader:
        return [checksum(batch) for _ in range(EPOCHS) for batch in loader]


def checksum(batch: object) -> str:
    """Return a checksum of a batch's images."""
    images = batch["pixel_values"] if isinstance(batch, dict) else batch[0]  # type: ignore[index] # a tuple
    return f"{zlib.crc32(images.permute(0, 2, 3, 1).numpy().tobytes()):08x}"


def run(name: str, data: ShardSet, out: Path, batches: Path, killed_at: int = 0) -> Trial:
    """Run an example in a process; write a checksum of each training batch, and die with batch `killed_at`."""
    play = Loader.__iter__

    def noting(loader: Loader) -> Iterator[object]:
        for batch in play(loader):
            if loader.split == "train":
                with batches.open("a") as file:
                    file.write(checksum(batch) + "\n")
                if len(batches.read_text().split()) == killed_at:
                    os._exit(9)
            yield batch

    def work() -> None:
        warnings.resetwarnings()  # the frameworks have theirs
        Loader.__iter__ = noting  # type: ignore[method-assign] # in a process of its own
        arguments = (str(data.path),) if name == "webdataset_loop" else (str(data.path), str(out))
        importlib.import_module(f"examples.{name}").main(*arguments)

    return trial(work, seconds=300)  # some frameworks take half a minute to import


def accuracy(ended: Trial) -> float:
    """Read the accuracy that an example prints."""
    assert ended.status == 0, ended.said
    (found,) = re.findall(r"test accuracy (\d\.\d{4})$", ended.said, re.M)
    return float(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", examples(list(RESUMABLE)))
def test_a_killed_example_resumes_at_the_next_batch(name: str, six_epochs: ShardSet, tmp_path: Path) -> None:
    wanted, first, second = played(six_epochs), tmp_path / "first", tmp_path / "second"
    assert len(set(wanted)) == len(wanted) == EPOCHS * STEPS_PER_EPOCH
    killed = run(name, six_epochs, tmp_path / "out", first, KILLED_AT)
    assert killed.status == 9, killed.said
    assert first.read_text().split() == wanted[:KILLED_AT]
    resumed = run(name, six_epochs, tmp_path / "out", second)
    assert accuracy(resumed) >= 0.87
    assert second.read_text().split() == wanted[RESUMABLE[name] :]


def test_the_webdataset_example_learns_without_prebake(six_epochs: ShardSet, tmp_path: Path) -> None:
    assert accuracy(run("webdataset_loop", six_epochs, tmp_path / "out", tmp_path / "batches")) >= 0.87
    code = (EXAMPLES / "webdataset_loop.py").read_text()
    assert not re.search(r"^\s*(from|import) prebake\b", code, re.M)


def code_lines(code: str) -> int:
    """Count lines of code, without imports, docstrings, comments and blank lines."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(code)):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt) and not is_docstring and not isinstance(node, (ast.Import, ast.ImportFrom)):
            body = getattr(node, "body", None)
            lines.update(range(node.lineno, body[0].lineno if body else (node.end_lineno or 0) + 1))
    return sum(not text.strip().startswith(("#", '"""')) and number in lines and text.strip() != ""
               for number, text in enumerate(code.splitlines(), 1))  # fmt: skip


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*_*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_tested_and_says_how_to_run_it(path: Path) -> None:
    if path.stem == "__init__":
        return
    assert path.stem in {*RESUMABLE, "webdataset_loop"}
    assert code_lines(path.read_text()) <= MAX_CODE_LINES
    assert f"examples.{path.stem} shards/digits" in path.read_text()
