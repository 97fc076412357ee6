"""A folder of pictures: `train/CLASS/`, with `test/` and `val/` beside it, or `CLASS/` alone.

It follows torchvision's ImageFolder: a class is a directory, classes are ordered by name, and a picture is a file with
the extension of one, at any depth below its class. Hidden files and directories are ignored.
"""

import errno
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from prebake.errors import DataError, listed, quote
from prebake.loader.image_file import EXTENSIONS
from prebake.precompute.images import SourceData
from prebake.precompute.sources.pictures import Pictures, decode
from prebake.precompute.sources.registry import Decoding, Source, absolute_path, register
from prebake.precompute.sources.splits import choose_splits, held_out_names, safe_name, split_of
from prebake.storage.files import open_regular

__all__ = ["walk_files"]

FOREIGN = "__MACOSX"  # which macOS adds to archives


def read_folder(argument: str, _data_dir: Path, how: Decoding) -> SourceData:
    """Read a folder of pictures.

    Raises:
        DataError: no such folder, fewer than two classes, a class without pictures, held-out pictures of an unknown
            class, directories that are neither splits nor classes, or as `decode`.
        UsageError, MachineError: as `decode`.
    """
    path = Path(argument).expanduser()
    if not path.is_dir():
        kind = "a file; unpack it first" if path.is_file() else "no such directory"
        raise DataError(f"--dataset folder:{path}: {kind}")
    parts = _parts(path)
    classes = _classes(parts["train"])
    if len(classes) < 2:
        raise DataError(_too_few(parts["train"], list(classes.values())))
    foreign: list[str] = _files_in(path) if parts["train"] != path else []
    files = {split: _pictures_of(part, list(classes), foreign) for split, part in parts.items()}
    empty = [quote(_text(name)) for name, paths in zip(classes, files["train"], strict=True) if not paths]
    if empty:
        raise DataError(
            f"{parts['train']}: {len(empty)} of {len(classes)} classes have no pictures ({listed(empty)}); pictures "
            f"end in {', '.join(EXTENSIONS)}. Remove the directories that are no classes"
        )
    left_out = [f"{parts[split].name}, which has no pictures in classes" for split in files if not any(files[split])]
    if foreign:
        left_out.append(f"{len(foreign)} files that are not named like pictures in a class ({listed(foreign, 4)})")
    splits = {split: _pictures(paths) for split, paths in files.items() if any(paths)}
    about = SourceData(
        safe_name(path.resolve().name), tuple(_text(name) for name in classes), {}, left_out=tuple(left_out)
    )
    return decode(about, held_out_names(splits), how)


def _parts(path: Path) -> dict[str, Path]:
    """Return the directory of each split; the whole folder is train where none has that name."""
    found, others = choose_splits(str(path), _directories(path))
    if "train" not in found:
        if found:
            raise DataError(
                f"{path}: has {', '.join(found.values())}, but no train; expected train/CLASS/ beside it, or classes "
                "only"
            )
        return {"train": path}
    crowded = [quote(_text(name)) for name in others if _any_picture(path / name)]
    if crowded:
        raise DataError(
            f"{path}: beside {found['train']}, which is taken for the training part, {len(crowded)} directories hold "
            f"pictures and are no part of a name known here: {listed(crowded)}. If {found['train']} is a class, rename "
            f"it, or move all classes into {path}/train/; if not, move the other directories away"
        )
    return {split: path / name for split, name in found.items()}


def _directories(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if _is_directory(e) and not e.name.startswith(".") and e.name != FOREIGN)


def _files_in(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(_text(e.name) for e in entries if not _is_directory(e) and not e.name.startswith("."))


def _classes(path: Path) -> dict[str, str]:
    """Return the directory of each class, by the class's name in Unicode's composed form.

    macOS writes decomposed file names, so that the same class may have two spellings.
    """
    found: dict[str, str] = {}
    for directory in _directories(path):
        name = unicodedata.normalize("NFC", directory)
        if name in found:
            raise DataError(
                f"{path}: two directories are named {quote(_text(name))}, in two Unicode forms; merge them into one"
            )
        found[name] = directory
    return {name: found[name] for name in sorted(found)}


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # a link to itself, which is as good as a broken one


def _pictures_of(part: Path, classes: Sequence[str], foreign: list[str]) -> list[list[str]]:
    """Return the paths of each class's pictures, in torchvision's order; add other files to `foreign`."""
    here = _classes(part)
    unknown = [quote(_text(name)) for name in here if name not in classes]
    if unknown:
        raise DataError(
            f"{part}: {len(unknown)} classes that are not in train ({listed(unknown)}), of which nothing can be "
            "learnt; remove them there, or add them to train"
        )
    foreign += _files_in(part)
    return [_pictures_in(part / here[name], foreign) if name in here else [] for name in classes]


def _pictures_in(directory: Path, foreign: list[str]) -> list[str]:
    splits = [name for name in _directories(directory) if split_of(name)]
    if len(splits) > 1:
        raise DataError(
            f"{directory}: holds the parts {listed(splits)}, which would all be used alike; expected train/CLASS/ and "
            "test/CLASS/, with the parts above the classes"
        )
    found = []
    for root, names in sorted(walk_files(directory)):
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS):
                found.append(os.path.join(root, name))  # noqa: PTH118 - a Path each would take much memory
            else:
                foreign.append(_text(name))
    return found


def _any_picture(directory: Path) -> bool:
    return any(name.lower().endswith(EXTENSIONS) for _, names in walk_files(directory) for name in names)


def walk_files(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield a directory and those below it, each with the names of its files.

    Links are followed; hidden files and directories are skipped.

    Raises:
        DataError: a link leads to a directory above it.
    """
    return _walk(str(directory), frozenset())


def _walk(directory: str, above: frozenset[str]) -> Iterator[tuple[str, list[str]]]:
    real = os.path.realpath(directory)
    if real in above:
        raise DataError(f"{_text(directory)}: links to a directory above it, which makes a circle; remove that link")
    with os.scandir(directory) as entries:
        seen = [(entry.name, _is_directory(entry)) for entry in entries if not entry.name.startswith(".")]
    yield directory, [name for name, is_directory in seen if not is_directory]
    for name, is_directory in seen:
        if is_directory:
            yield from _walk(f"{directory}/{name}", above | {real})


def _pictures(paths: Sequence[Sequence[str]]) -> Pictures:
    """Return the pictures of one split, given those of each class."""
    flat = [path for of_class in paths for path in of_class]
    labels_N = np.repeat(np.arange(len(paths)), [len(of_class) for of_class in paths])

    def open_picture(number: int) -> IO[bytes]:
        return os.fdopen(open_regular(Path(flat[number])), "rb")

    return Pictures(labels_N, lambda number: _text(flat[number]), open_picture)


def _text(name: str) -> str:
    """Return a file's name as valid Unicode: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _too_few(train: Path, directories: Sequence[str]) -> str:
    found = f"only {quote(_text(directories[0]))}" if directories else "none"
    deeper = [train / name for name in directories if any(map(split_of, _directories(train / name)))]
    hint = f"; try folder:{deeper[0]}" if deeper else ", one for each class, with its pictures in it"
    return f"{train}: expected at least two directories of classes, found {found}{hint}"


register(
    Source(
        "folder",
        read_folder,
        "pictures in train/CLASS/ and test/CLASS/ or val/CLASS/, or in CLASS/ alone",
        "PATH",
        absolute_path,
    )
)
