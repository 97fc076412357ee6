"""The layers of the package: which module may import which, and what `import prebake` loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "prebake"
# Each layer imports from earlier ones only. Everything that is not named belongs to the first layer.
LAYERS: tuple[set[str], ...] = (
    set(),
    {"storage"},
    {"format"},
    {"loader"},
    {"precompute", "train"},
    {"cli"},
    {"__init__", "__main__"},
)
MODULES = sorted(PACKAGE.rglob("*.py"))
FORMAT_NEEDS = {"numpy", "prebake", "xxhash"} | sys.stdlib_module_names


def imported(code: str) -> set[str]:
    """Return the modules that code imports by whatever statement or call, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module="prebake", names=names):
                found |= {f"prebake.{alias.name}" for alias in names}
            case ast.ImportFrom(module=module, level=level):
                found.add("." * level + (module or ""))
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                found.add(module)
    return found


def part(module: str) -> str:
    """Return the part of the package that a module belongs to: `prebake.format.index` to `format`."""
    return module.split(".")[1] if module.startswith("prebake.") else "__init__"


def layer(name: str) -> int:
    return next((number for number, names in enumerate(LAYERS) if name in names), 0)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_only_from_lower_layers(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imported(path.read_text(encoding="utf-8")):
        assert not module.startswith("."), f"{path}: expected absolute imports, found {module}"
        if module.split(".")[0] == "prebake" and part(module) != own and part(module) != "__init__":
            assert layer(part(module)) < layer(own) or not layer(part(module)), f"{path} imports {module}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "format").glob("*.py")), ids=lambda path: path.name)
def test_the_format_needs_only_numpy_and_xxhash(path: Path) -> None:
    assert {module.split(".")[0] for module in imported(path.read_text(encoding="utf-8"))} <= FORMAT_NEEDS


def test_every_form_of_import_is_seen() -> None:
    for code in (
        "import prebake.train",
        "import os, prebake.train as t",
        "from prebake import train",
        "def f():\n    from prebake.train import fit",
        "importlib.import_module('prebake.train')",
        "__import__('prebake.train')",
    ):
        assert "prebake.train" in imported(code)
    assert imported("from . import train\ntrain = 1") == {"."}


def test_importing_the_package_is_fast_and_loads_no_numpy() -> None:
    code = (
        "import sys, time\nstart = time.process_time()\nimport prebake\n"
        "print(time.process_time() - start, *{name.partition('.')[0] for name in sys.modules})"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    seconds, modules = zip(*((float(run.stdout.split()[0]), run.stdout.split()[1:]) for run in runs), strict=True)
    assert min(seconds) < 0.2
    assert not {"torch", "numpy", "torchvision", "PIL", "webdataset"} & set(modules[0])
