"""The identity of a transform: whose code it reaches, on any path, with and without its source."""

import functools
import importlib
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

from prebake.precompute.augment import AUGMENTATIONS
from prebake.precompute.augment.identity import identify
from prebake.precompute.augment.source_code import is_library, without_comments
from prebake.user_code import import_object

ROOT = Path(__file__).parent.parent
JITTER = AUGMENTATIONS["color-jitter"].transform


def user_identity(file: Path, text: str) -> dict[str, str]:
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(text)
    return identify(import_object(f"{file}:f", "--transform").value)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["PYTHONPATH", "pth"])
def test_the_identity_is_the_same_wherever_torch_is_installed(way: str, tmp_path: Path) -> None:
    assert JITTER is not None
    venv.create(tmp_path / "venv", symlinks=True, with_pip=False)
    packages = [sysconfig.get_path("purelib")]
    if way == "pth":
        (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
        (site / "other.pth").write_text(packages.pop())
    done = subprocess.run(
        [
            str(tmp_path / "venv/bin/python"),
            "-c",
            "from prebake.precompute.augment import AUGMENTATIONS as a; print(a['color-jitter'].transform.identity)",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *packages])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(JITTER.identity), done.stderr
    assert set(JITTER.identity) == {"transform", "library"}


def test_the_place_of_a_file_is_no_part_of_the_identity(tmp_path: Path) -> None:
    text = "class Own:\n    def __call__(self, x): return x\nf = Own()\n"
    one, two = (user_identity(tmp_path / name / "own.py", text) for name in "ab")
    assert one == two
    assert one["transform"] == "<own.Own object>"


def test_an_editable_install_is_the_users_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "an_own_project.py").write_text("def f(x): return x\n")
    info = tmp_path / "an_own_project-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: an_own_project\nVersion: 1.0\n")
    (info / "direct_url.json").write_text('{"dir_info": {"editable": true}, "url": "file:///x"}')
    monkeypatch.syspath_prepend(tmp_path)
    assert "source" in identify(importlib.import_module("an_own_project").f)
    assert not is_library("an_own_project")
    assert is_library("torch.nn.functional")


def test_comments_and_docstrings_do_not_count() -> None:
    plain = 'def f(x):\n    y = """\n\n# no comment """\n    return (x,\n        "text")\n'
    commented = (
        '# one\n\ndef f(x):  # two\n    """Three."""\n\n    # four\n'
        '    y = """\n\n# no comment """\n    return (x,  # five\n        "text")\n'
    )
    assert without_comments(commented) == plain
    assert without_comments("lambda x: x),  # half") == "lambda x: x),  # half"


def test_code_without_a_source_has_an_identity() -> None:
    def made(text: str) -> dict[str, str]:
        scope: dict[str, Any] = {"__name__": "a_module_without_source"}
        exec(text, scope)  # noqa: S102 - the test's own text
        return identify(scope["f"])

    function = "import numpy as np\ndef f(x): return np.{}(x)\n"
    assert made(function.format("flip")) == made(function.format("flip")) != made(function.format("sort"))
    instance = "class F:\n    scale = {}\n    def __call__(self, x): return x\n    __repr__ = lambda _: 'F'\nf = F()\n"
    assert made(instance.format(1)) == made(instance.format(1)) != made(instance.format(2))


def test_what_a_transform_reaches_indirectly_counts(tmp_path: Path) -> None:
    texts = [
        "import torch\n@torch.no_grad()\ndef f(x): return x + {}\n",
        "import torch\nK = torch.tensor([{}])\ndef f(x): return x + K\n",
        "import functools\ndef g(x, s): return x\nf = functools.partial(g, s={})\n",
    ]
    for i, text in enumerate(texts):
        one, two = (user_identity(tmp_path / f"{i}{k}" / "own.py", text.format(k)) for k in (1, 2))
        assert one["source"] != two["source"], text


def test_sets_have_the_same_identity_in_each_process(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("NAMES = {'a', 'b', 'c', 'd'}\ndef f(x): return x if NAMES else None\n")
    read = "import sys; sys.path[:0] = sys.argv[1:]; import own; from prebake.precompute.augment import Pipeline"
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=True)
    command = [sys.executable, "-c", f"{read}; print(Pipeline.of(own.f).identity)", str(tmp_path), str(ROOT)]
    found = {run(command, env={**os.environ, "PYTHONHASHSEED": str(seed)}).stdout for seed in (1, 2)}
    assert len(found) == 1
