"""A folder of pictures: `train/<class>/`, and perhaps `test/` and `val/` beside it, or classes alone.

Conventions of torchvision's ImageFolder: classes are directories in the order of their names, pictures are what has the
ending of one, however deep in its class. Hidden files and directories are no one's pictures.
"""

import errno
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from prebake.console import log
from prebake.errors import DataError, listed, shown
from prebake.loader.image_file import EXTENSIONS
from prebake.precompute.images import SourceData
from prebake.precompute.sources.decode import Decoding, Pictures, decoded
from prebake.storage.files import open_regular

__all__ = ["held_out_names", "load_folder", "safe_name", "split_of"]

# What the parts of a data set are called where people share them.
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
FOREIGN = "__MACOSX"  # what macOS puts beside the files of an archive


def load_folder(where: str, how: Decoding) -> SourceData:
    """Read a folder of pictures.

    Raises:
        DataError: no such folder, no two classes, a class without pictures, held-out pictures of an unknown class,
            or as `decoded`.
        UsageError, MachineError: as `decoded`.
    """
    path = Path(where).expanduser()
    if not path.is_dir():
        kind = "a file; unpack it first" if path.is_file() else "no such directory"
        raise DataError(f"--dataset folder:{path}: {kind}")
    parts = _parts(path)
    classes = _directories(parts["train"])
    if len(classes) < 2:
        raise DataError(_too_few(parts["train"], classes))
    left_out: list[str] = []
    files = {split: _files(part, classes, left_out) for split, part in parts.items()}
    empty = [shown(_text(name)) for name, paths in zip(classes, files["train"], strict=True) if not paths]
    if empty:
        raise DataError(
            f"{parts['train']}: {len(empty)} of {len(classes)} classes have no pictures ({listed(empty)}); pictures "
            f"end in {', '.join(EXTENSIONS)}. Remove the directories that are no classes"
        )
    if left_out:
        log(
            f"{path}: {len(left_out)} files are left out, since they are not named like pictures in a class: "
            f"{listed(left_out, 4)}"
        )
    for split, paths in files.items():
        if not any(paths):
            log(f"{parts[split]}: no pictures in classes, so nothing is held out there")
    splits = {split: _pictures(paths) for split, paths in files.items() if any(paths)}
    return decoded(safe_name(path.resolve().name), [_text(name) for name in classes], held_out_names(splits), how)


def split_of(name: str) -> str | None:
    """Say which split a directory, or another part of a set, of that name holds."""
    return SPLITS.get(name.lower())


def held_out_names(splits: Mapping[str, Pictures]) -> dict[str, Pictures]:
    """Take a lone `val` for the test split, as it is in sets whose real test labels nobody has."""
    return {"test" if split == "val" and "test" not in splits else split: part for split, part in splits.items()}


def safe_name(text: str) -> str:
    """Make a data set's name, which becomes a part of file names, out of any text."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:64] or "pictures"


def _parts(path: Path) -> dict[str, Path]:
    """Return the directory of each split; where none is called train, the whole folder is."""
    found: dict[str, Path] = {}
    others = []
    for name in _directories(path):
        split = split_of(name)
        if split is None:
            others.append(shown(_text(name)))
        elif split in found:
            raise DataError(f"{path}: both {found[split].name} and {name} would be its {split} part; rename one")
        else:
            found[split] = path / name
    if "train" not in found:
        if found:
            raise DataError(
                f"{path}: has {', '.join(part.name for part in found.values())}, but no train; expected "
                "train/<class>/ beside it, or classes only"
            )
        return {"train": path}
    if others:
        log(f"{path}: left out what is neither train, test nor val: {listed(others, 4)}")
    return {split: found[split] for split in ("train", "test", "val") if split in found}


def _directories(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if _is_directory(e) and not e.name.startswith(".") and e.name != FOREIGN)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # a link to itself is as good as one to nothing


def _files(part: Path, classes: Sequence[str], left_out: list[str]) -> list[list[str]]:
    """Return the paths of each class's pictures, in torchvision's order."""
    unknown = [shown(_text(name)) for name in sorted(set(_directories(part)) - set(classes))]
    if unknown:
        raise DataError(
            f"{part}: {len(unknown)} classes that are not in train ({listed(unknown)}), of which nothing can be "
            "learnt; remove them there, or add them to train"
        )
    with os.scandir(part) as entries:
        left_out += [_text(e.name) for e in entries if not _is_directory(e) and not e.name.startswith(".")]
    return [_pictures_in(part / name, left_out) if (part / name).is_dir() else [] for name in classes]


def _pictures_in(directory: Path, left_out: list[str]) -> list[str]:
    found = []
    for root, names in sorted(_walk(str(directory), frozenset())):
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS):
                found.append(os.path.join(root, name))  # noqa: PTH118 - a Path each would take much memory
            else:
                left_out.append(_text(name))
    return found


def _walk(directory: str, above: frozenset[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield a directory and those below it, each with the names of its files; links are followed."""
    real = os.path.realpath(directory)
    if real in above:
        raise DataError(f"{_text(directory)}: leads to a directory above it, and so in a circle; remove that link")
    with os.scandir(directory) as entries:
        seen = [(entry.name, _is_directory(entry)) for entry in entries if not entry.name.startswith(".")]
    yield directory, [name for name, is_directory in seen if not is_directory]
    for name, is_directory in seen:
        if is_directory:
            yield from _walk(f"{directory}/{name}", above | {real})


def _pictures(paths: Sequence[Sequence[str]]) -> Pictures:
    """Return one split's pictures, given those of each class."""
    flat = [path for of_class in paths for path in of_class]
    labels_N = np.repeat(np.arange(len(paths)), [len(of_class) for of_class in paths])

    def open_picture(number: int) -> IO[bytes]:
        return os.fdopen(open_regular(Path(flat[number])), "rb")

    return Pictures(labels_N, lambda number: _text(flat[number]), open_picture)


def _text(name: str) -> str:
    """Return a file's name as text that any encoding of Unicode can hold: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _too_few(train: Path, classes: Sequence[str]) -> str:
    found = f"only {shown(_text(classes[0]))}" if classes else "none"
    deeper = [train / name for name in classes if any(map(split_of, _directories(train / name)))]
    hint = f"; try folder:{deeper[0]}" if deeper else ", one for each class, with its pictures in it"
    return f"{train}: expected at least two directories of classes, found {found}{hint}"
