"""Import an object that a user names: `FILE.py:NAME` or `package.module:NAME`."""

import hashlib
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from prebake.errors import UsageError

__all__ = ["UserObject", "import_object", "names_object"]


@dataclass(frozen=True)
class UserObject:
    """An object from a user's own code.

    Attributes:
        value: the object.
        source_sha256: SHA-256 of the file that was imported, or None where the module is no Python file.
    """

    value: Any
    source_sha256: str | None


def names_object(text: str) -> bool:
    """Whether the text has the form `FILE.py:NAME` or `package.module:NAME`."""
    module, colon, name = text.rpartition(":")
    return bool(module and colon and name.isidentifier())


def import_object(text: str, option: str) -> UserObject:
    """Import the object that `FILE.py:NAME` or `package.module:NAME` names.

    A file may import its neighbours, as a script may. A module is searched in the current directory, too.
    An exception that the user's code raises at its import is not caught.

    Args:
        text: such as `nets/mlp.py:MLP` or `torchvision.models:resnet18`.
        option: the option that the text was given with, for messages.

    Raises:
        UsageError: another form, no such file or module, or no such name in it.
    """
    module_name, _, name = text.rpartition(":")
    if not names_object(text):
        raise UsageError(f"{option}: expected FILE.py:NAME or package.module:NAME, found {text!r}")
    module = _import_file(Path(module_name), option) if module_name.endswith(".py") else _import(module_name, option)
    if not hasattr(module, name):
        raise UsageError(f"{option}: {module_name} has no {name!r}")
    path = Path(getattr(module, "__file__", None) or "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix == ".py" else None
    return UserObject(getattr(module, name), sha256)


def _import_file(path: Path, option: str) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"{option}: no file {path}")
    path = path.resolve()
    # Under a name of its own, which a second import of the file, or pickle in a forked worker, finds again.
    name = f"prebake_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    _search(path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101 - it has a loader for every name that ends in .py
    assert spec.loader is not None  # noqa: S101 - as above
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import(name: str, option: str) -> ModuleType:
    _search(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that the user's module imports is another fault: its traceback names the line.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise UsageError(f"{option}: no module {error.name!r}") from None
    except (TypeError, ValueError):
        raise UsageError(f"{option}: {name!r} is no module's name") from None


def _search(directory: Path) -> None:
    """Let imports search a directory, after all others: its files hide no installed package."""
    if str(directory) not in sys.path:
        sys.path.append(str(directory))
