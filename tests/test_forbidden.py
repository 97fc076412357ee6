"""The package never uses functions that could run a stranger's code, or that die if a file shrinks (mmap)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "prebake").rglob("*.py"))
IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "mmap"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {"extract", "extractall", "unpack_archive", "popen", "memmap", "find_class"}
# A name, and the module that may use it.
ALLOWED = {
    # Only the name of an error. torchvision unpickles CIFAR after it has checked the MD5.
    ("pickle", "prebake/precompute/sources/torchvision.py"),
    # It tests whether a user's own pipeline can be sent to another process; it loads nothing.
    ("pickle", "prebake/precompute/augment/pipeline.py"),
    # It maps a shard that this process has just written, in a directory that no other process knows, to upload it.
    ("mmap", "prebake/storage/remote.py"),
    # A worker process loads the work that its parent process sends through a pipe.
    ("pickle", "prebake/precompute/workers.py"),
    ("pickle.load", "prebake/precompute/workers.py"),
}


def forbidden(code: str) -> set[str]:
    """Return the forbidden names that code imports or calls, and loading calls that may unpickle."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name.split(".")[0] for alias in names} & IMPORTS
            case ast.ImportFrom(module=str(module), names=names):
                found |= {module.split(".")[0], *(alias.name for alias in names)} & (IMPORTS | METHODS)
            case ast.Call(func=ast.Name(id=name)) if name in BUILTINS | METHODS:
                found.add(name)
            case ast.Call(func=ast.Attribute(attr=name)) if name in METHODS:
                found.add(name)
            case ast.Attribute(value=ast.Name(id="pickle"), attr="load" | "loads" | "Unpickler"):
                found.add("pickle.load")
            case ast.Attribute(value=ast.Name(id="os"), attr="system" | "fork" as name):
                found.add(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=keywords):
                if not _says(keywords, "weights_only", True):
                    found.add("torch.load")
            case ast.Call(func=ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="load"), keywords=keywords):
                if any(word.arg == "allow_pickle" for word in keywords) and not _says(keywords, "allow_pickle", False):
                    found.add("np.load")
            case ast.keyword(arg="shell", value=value) if not (
                isinstance(value, ast.Constant) and value.value is False
            ):
                found.add("shell")
            case ast.Constant(value=str(text)) if text.startswith("pipe:"):
                found.add("pipe:")
    return found


def _says(keywords: list[ast.keyword], name: str, value: bool) -> bool:
    return any(
        word.arg == name and isinstance(word.value, ast.Constant) and word.value.value is value for word in keywords
    )


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_can_run_code_of_a_stranger(module: Path) -> None:
    name = str(module.relative_to(ROOT))
    assert {word for word in forbidden(module.read_text(encoding="utf-8")) if (word, name) not in ALLOWED} == set()


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("pickle.loads(data)", "pickle.load"),
        ("import yaml.loader", "yaml"),
        ("eval(text)", "eval"),
        ("os.system(text)", "system"),
        ("archive.extractall(path)", "extractall"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "torch.load"),
        ("np.load(path, allow_pickle=True)", "np.load"),
        ("subprocess.run(line, shell=True)", "shell"),
        ("open_url('pipe:cat file')", "pipe:"),
        ("np.memmap(path)", "memmap"),
        ("from mmap import mmap", "mmap"),
    ],
)
def test_each_forbidden_use_is_found(code: str, word: str) -> None:
    assert word in forbidden(code)


def test_harmless_code_is_not_reported() -> None:
    code = "re.compile('a')\ntorch.load(a, weights_only=True)\nnp.load(a)\nmodel.eval()\nnp.load(a, allow_pickle=False)"
    assert forbidden(code) == set()
