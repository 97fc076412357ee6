"""Mechanisms that promises depend on, and how to switch one off in a process."""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["Mechanism", "owner_of", "switch_off"]


@dataclass(frozen=True)
class Mechanism:
    """A part of the program that a promise depends on.

    Attributes:
        target: import path, `module:attribute` or `module:Class.method`.
        substitute: takes the original and returns its replacement, which lacks the mechanism.
        test: node id of a test that must fail without the mechanism.
    """

    target: str
    substitute: Callable[[Any], Any]
    test: str

    @property
    def module(self) -> str:
        """Name of the module."""
        return self.target.partition(":")[0]


def owner_of(mechanism: Mechanism) -> tuple[Any, str]:
    """Import the module of a mechanism; return the module or class that holds it, and its name there."""
    *classes, name = mechanism.target.partition(":")[2].split(".")
    owner: Any = importlib.import_module(mechanism.module)
    for each in classes:
        owner = getattr(owner, each)
    return owner, name


def switch_off(mechanism: Mechanism) -> None:
    """Replace a mechanism as soon as its module is imported, before another module can import it from there."""
    if mechanism.module in sys.modules:
        _replace(mechanism)
    else:
        sys.meta_path.insert(0, _Finder(mechanism))


def _replace(mechanism: Mechanism) -> None:
    owner, name = owner_of(mechanism)
    setattr(owner, name, mechanism.substitute(getattr(owner, name)))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mechanism: Mechanism) -> None:
        self._mechanism = mechanism

    def find_spec(self, name: str, _path: object, _target: object = None) -> ModuleSpec | None:
        if name != self._mechanism.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._mechanism)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any, mechanism: Mechanism) -> None:
        self._loader, self._mechanism = loader, mechanism

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _replace(self._mechanism)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
