"""The registry of sources, by the names that `--dataset` takes.

A module of this package that calls `register` is found by itself. A user's own source is a function, which needs no
registration: `--dataset FILE.py:NAME`.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from prebake.errors import UsageError
from prebake.precompute.images import SourceData
from prebake.user_code import names_object

__all__ = [
    "Decoding",
    "Reader",
    "Source",
    "absolute_name",
    "absolute_path",
    "check_name",
    "dataset_names",
    "load",
    "register",
    "sources",
]

FUNCTION = "FILE.py"  # the kind of `FILE.py:NAME` and `package.module:NAME`


@dataclass(frozen=True)
class Decoding:
    """How pictures are decoded.

    Attributes:
        image_size: side in pixels of the square that each picture is resized and cropped to; None: all have one size.
        skip_unreadable: leave out pictures that cannot be read, instead of stopping.
        workers: threads; None: one per core.
        scratch: directory of the temporary file of pixels; None: the system's temporary directory.
    """

    image_size: int | None = None
    skip_unreadable: bool = False
    workers: int | None = None
    scratch: Path | None = None


class Reader(Protocol):
    """Reads a data set: `argument` is the text after the colon, `data_dir` a torchvision root."""

    def __call__(self, argument: str, data_dir: Path, how: Decoding, /) -> SourceData: ...


@dataclass(frozen=True)
class Source:
    """One name, or one kind, that `--dataset` takes.

    Attributes:
        name: the whole name, such as `mnist`, or the kind before the colon, such as `folder`.
        read: reads it.
        about: one line for `prebake list`.
        argument: placeholder for what follows the colon, such as `PATH`; empty where there is no colon.
        absolute: returns the argument as it means the same in any working directory.
    """

    name: str
    read: Reader
    about: str
    argument: str = ""
    absolute: Callable[[str], str] = field(default=str)

    def __str__(self) -> str:
        return f"{self.name}:{self.argument}" if self.argument else self.name


_SOURCES: dict[str, Source] = {}


def register(source: Source) -> None:
    """Add a source; raises ValueError where its name is taken."""
    if source.name in _SOURCES:
        raise ValueError(f"a source named {source.name!r} is registered already")
    _SOURCES[source.name] = source


def sources() -> dict[str, Source]:
    """Return all sources by name: first data sets with a name of their own, then kinds with an argument."""
    package = importlib.import_module("prebake.precompute.sources")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return dict(sorted(_SOURCES.items(), key=lambda item: (item[1].argument != "", item[0] == FUNCTION)))


def dataset_names() -> list[str]:
    """Return the data sets with a name of their own."""
    return [name for name, source in sources().items() if not source.argument]


def load(name: str, data_dir: Path, how: Decoding | None = None) -> SourceData:
    """Load a data set; known ones are downloaded where they are not under `data_dir` and a network is available.

    Args:
        name: as `--dataset` takes it, such as `mnist`, `folder:PATH` or `FILE.py:NAME`.
        data_dir: torchvision root.
        how: how pictures are decoded; data sets with a name of their own need none.

    Raises:
        UsageError: no data set of that name, or an option of decoding outside its range.
        DataError: the data is missing, damaged, or does not fit together.
        MachineError: a package is missing, or there is not enough space.
    """
    how = how or Decoding()
    source, argument = _find(name)
    check_name(name, how)
    return source.read(argument, data_dir, how)


def check_name(name: str, how: Decoding) -> None:
    """Raise UsageError unless there is such a source and it takes these options of decoding."""
    source, _ = _find(name)
    if source.argument:
        return
    if how.image_size is not None:
        raise UsageError(f"--image-size: for your own pictures only; {name} has a size, and --resize bakes another one")
    if how.skip_unreadable:
        raise UsageError(f"--skip-unreadable: for your own pictures only; {name} is read whole or not at all")


def absolute_name(name: str) -> str:
    """Return the name of a data set as it means the same in any working directory."""
    source, argument = _find(name)
    argument = source.absolute(argument)
    return f"{source.name}:{argument}" if source.argument and source.name != FUNCTION else argument or name


def absolute_path(path: str) -> str:
    """Return a path, which may begin with `~`, as an absolute one."""
    return str(Path(path).expanduser().absolute())


def _find(name: str) -> tuple[Source, str]:
    """Return the source of a name, and its argument."""
    known = sources()
    kind, _, argument = name.partition(":")
    if argument and kind in known and known[kind].argument and kind != FUNCTION:
        return known[kind], argument
    if name in known and not known[name].argument:
        return known[name], ""
    if names_object(name) and ("." in name.rpartition(":")[0]):
        return known[FUNCTION], name
    raise UsageError(
        f"--dataset: no data set named {name!r}; there are {', '.join(dataset_names())}, and your own as "
        f"{', '.join(str(each) for each in known.values() if each.argument)}"
    )
