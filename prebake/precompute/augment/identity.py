"""The identity of a transform: its repr, its source code if it is a user's, and the versions of its libraries.

Two transforms with the same identity make the same views, as far as that can be known without running them.
"""

import functools
import hashlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

__all__ = ["identify"]

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
MAX_TEXT = 500
CONSTANTS = (bool, int, float, complex, str, bytes, type(None))


def identify(transform: Any) -> dict[str, str]:
    """Return what tells a transform from others.

    Returns:
        `transform`: its repr, or the name of a function. `source`: a SHA-256 of the user's functions and classes that
        it reaches, and of the constants they use; absent if it reaches none. `library`: the installed packages that it
        reaches, with their versions.
    """
    visitor = _Visitor()
    visitor.visit(transform)
    named = isinstance(transform, FunctionType)
    text = transform.__qualname__ if named else ADDRESS.sub("", " ".join(repr(transform).split()))
    if len(text) > MAX_TEXT:
        visitor.sources.append(text)
        text = f"{text[:MAX_TEXT]}..."
    identity = {"transform": text}
    if visitor.sources:
        identity["source"] = hashlib.sha256("\n".join(visitor.sources).encode()).hexdigest()[:32]
    versions = sorted(filter(None, map(_version, visitor.packages)))
    return {**identity, "library": ", ".join(versions)} if versions else identity


class _Visitor:
    """Collects the source code and the packages that an object reaches."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self.packages: set[str] = set()
        self._seen: dict[int, Any] = {}  # keeps the objects alive, since their ids are the keys

    def visit(self, value: Any, constants: bool = True) -> None:
        """Visit a value and all that it reaches. `constants`: numbers, texts and arrays are a part of the identity."""
        if isinstance(value, CONSTANTS):
            self.sources += [repr(value)] * constants
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, ModuleType):
            if self._is_users(value.__name__, getattr(value, "__file__", None)):
                self.sources.append(inspect.getsource(value))
        elif isinstance(value, FunctionType):
            self._visit_function(value)
        elif isinstance(value, type):
            self._visit_class(value)
        elif isinstance(value, MethodType):
            self._visit_all((value.__func__, value.__self__), constants)
        elif isinstance(value, functools.partial):
            self._visit_all((value.func, value.args, value.keywords), constants)
        elif isinstance(value, dict):
            self._visit_all(value.values(), constants)
        elif isinstance(value, list | tuple | set | frozenset):
            self._visit_all(value, constants)
        elif isinstance(value, np.ndarray):
            self.sources += [hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()] * constants
        else:
            self._visit_object(value)

    def _visit_all(self, values: Iterable[Any], constants: bool) -> None:
        for value in values:
            self.visit(value, constants)

    def _visit_object(self, value: Any) -> None:
        self.visit(type(value))
        users = [cls for cls in type(value).__mro__ if self._is_users(cls.__module__, _file_of(cls))]
        if any("__repr__" in vars(cls) for cls in users):
            self.sources.append(ADDRESS.sub("", repr(value)))
            return
        # The repr of a library's object tells its parameters. Its attributes may change with use.
        for name, part in sorted(getattr(value, "__dict__", {}).items()):
            self.visit(part, bool(users) and not name.startswith("_"))

    def _visit_function(self, function: FunctionType) -> None:
        if not self._is_users(function.__module__, function.__code__.co_filename):
            return
        self.sources.append(_source_of(function))
        for name in sorted(set(_names_in(function.__code__))):
            if name in function.__globals__:
                self.visit(function.__globals__[name])
        for cell in function.__closure__ or ():
            self.visit(cell.cell_contents)

    def _visit_class(self, cls: type) -> None:
        for each in cls.__mro__:
            if self._is_users(each.__module__, _file_of(each)):
                self.sources.append(_source_of(each))
                self._visit_all((part for part in vars(each).values() if isinstance(part, FunctionType)), True)

    def _is_users(self, module: str | None, file: str | None) -> bool:
        """Whether code is a user's own; the package of other code is noted."""
        top = (module or "builtins").partition(".")[0]
        if top in sys.stdlib_module_names or top == "prebake":
            return False
        installed = file is not None and any(Path(file).is_relative_to(path) for path in _site_packages())
        if installed or (file is None and top in sys.modules and top != "__main__"):
            self.packages.add(top)
            return False
        return True


@functools.cache
def _site_packages() -> tuple[str, ...]:
    return tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib")})


def _file_of(cls: type) -> str | None:
    return getattr(sys.modules.get(cls.__module__), "__file__", None)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _source_of(code: Any) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):  # typed at a prompt: the byte code changes with the version of Python
        if isinstance(code, FunctionType):
            constants = [each for each in code.__code__.co_consts if isinstance(each, CONSTANTS)]
            return f"{code.__code__.co_code.hex()} {constants} Python {sys.version}"
        return str(code.__qualname__)


def _version(package: str) -> str | None:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:  # the package has another name than its distribution
        names = metadata.packages_distributions().get(package, [])
        return f"{names[0]} {metadata.version(names[0])}" if names else None
