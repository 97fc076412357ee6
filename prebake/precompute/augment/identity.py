"""The identity of a transform: its repr, its source code if it is a user's, and the versions of its libraries.

Two transforms with the same identity make the same views, as far as that can be known without running them.
"""

import functools
import hashlib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from prebake.errors import quote
from prebake.precompute.augment.source_code import CONSTANTS, is_library, is_standard, names_in, text_of, version_of

__all__ = ["changes", "identify", "without_identity"]

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
USER_MODULE = re.compile(r"\bprebake_user_(\w+)_[0-9a-f]{8}\b")  # of `prebake.user_code`; it tells the file's path
BUILT_IN = ("builtin_function_or_method", "cython_function_or_method")
MAX_TEXT = 500


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
    text = transform.__qualname__ if named else _repr(transform)
    if len(text) > MAX_TEXT:
        visitor.sources.append(text)
        text = f"{text[:MAX_TEXT]}..."
    identity = {"transform": text}
    if visitor.sources:
        identity["source"] = hashlib.sha256("\n".join(visitor.sources).encode()).hexdigest()[:32]
    versions = sorted(filter(None, map(version_of, visitor.packages)))
    return {**identity, "library": ", ".join(versions)} if versions else identity


def changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Describe in words how the transforms of two augmentations differ, as manifests hold them."""
    found = []
    for prefix, kind in (("", "transform"), ("test_", "test transform")):
        before, now = (each.get(f"{prefix}transform") for each in (there, here))
        if before != now:
            names = ["none" if each is None else quote(each) for each in (before, now)]
            found.append(f"the {kind} was {names[0]} at the bake, and is {names[1]} now")
        elif there.get(f"{prefix}source") != here.get(f"{prefix}source"):
            found.append(f"the code of {kind} {quote(now)} changed since the bake")
    before, now = (set(filter(None, str(each.get("library", "")).split(", "))) for each in (there, here))
    if before != now:
        names = [", ".join(sorted(each)) or "none" for each in (before - now, now - before)]
        found.append(f"the libraries were {quote(names[0])[1:-1]} at the bake, and are {names[1]} now")
    return found


def without_identity(augmentation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an augmentation that `changes` does not compare."""
    ours = {f"{prefix}{key}" for prefix in ("", "test_") for key in ("transform", "source", "library")}
    return {key: value for key, value in augmentation.items() if key not in ours}


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
            if self._is_users(value.__name__):
                self.sources.append(text_of(value))
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
        elif isinstance(value, list | tuple):
            self._visit_all(value, constants)
        elif isinstance(value, set | frozenset):
            self._visit_all(sorted(value, key=repr), constants)  # texts have another order in each process
        elif isinstance(value, np.ndarray):
            self.sources += [hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()] * constants
        elif (type(value).__module__, type(value).__name__) == ("torch", "Tensor"):
            self.visit(value.detach().cpu().numpy(), constants)
        elif type(value).__name__ in BUILT_IN:
            self.visit(sys.modules.get(value.__module__ or "builtins"))
        else:
            self._visit_object(value)

    def _visit_all(self, values: Iterable[Any], constants: bool) -> None:
        for value in values:
            self.visit(value, constants)

    def _visit_object(self, value: Any) -> None:
        self.visit(type(value))
        users = [cls for cls in type(value).__mro__ if self._is_users(cls.__module__)]
        if any("__repr__" in vars(cls) for cls in users):
            self.sources.append(_repr(value))
            return
        # The repr of a library's object tells its parameters. Its attributes may change with use.
        for name, part in sorted(getattr(value, "__dict__", {}).items()):
            self.visit(part, bool(users) and not name.startswith("_"))

    def _visit_function(self, function: FunctionType) -> None:
        if not self._is_users(function.__module__):
            return
        self.sources.append(text_of(function))
        if hasattr(function, "__wrapped__"):  # by a decorator
            self.visit(inspect.unwrap(function))
        for name in sorted(set(names_in(function.__code__))):
            if name in function.__globals__:
                self.visit(function.__globals__[name])
        for cell in function.__closure__ or ():
            self.visit(cell.cell_contents)

    def _visit_class(self, cls: type) -> None:
        for each in cls.__mro__:
            if self._is_users(each.__module__):
                self.sources.append(text_of(each))
                self._visit_all((part for part in vars(each).values() if isinstance(part, FunctionType)), True)

    def _is_users(self, module: str | None) -> bool:
        """Whether code is a user's own; the package of other code is noted."""
        if is_standard(module or "builtins"):
            return False
        if is_library(str(module)):
            self.packages.add(str(module).partition(".")[0])
            return False
        return True


def _repr(value: Any) -> str:
    """The repr in one line, without addresses, and without the path of the file that a user named."""
    return USER_MODULE.sub(r"\1", ADDRESS.sub("", " ".join(repr(value).split())))
