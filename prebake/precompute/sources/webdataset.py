"""WebDataset shards of pictures: plain tar files in which `key.png` and `key.cls` stand side by side."""

import glob
import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from prebake.console import log
from prebake.errors import DataError, UsageError, listed, shown
from prebake.loader.image_file import EXTENSIONS
from prebake.precompute.images import SourceData
from prebake.precompute.sources.decode import Decoding, Pictures, decoded
from prebake.precompute.sources.folder import held_out_names, safe_name, split_of

__all__ = ["load_tars"]

LABEL = ".cls"
MAX_LABEL = 2**16 - 1
MAX_LABEL_BYTES = 64


@dataclass(frozen=True)
class _Sample:
    """Where a picture lies in which archive, and its label."""

    archive: int
    name: str
    offset: int
    size: int
    label: int


def load_tars(where: str, how: Decoding) -> SourceData:
    """Read WebDataset shards, local files: a directory of them, or a path with braces or wildcards.

    A shard whose name has the word test or val is of that split, all others are to train on. Where shards lie in
    several directories, the names of these count, too.

    Raises:
        UsageError: not local, or as `decoded`.
        DataError: no such files, or others than plain tar files of pictures with numbers for labels, or as `decoded`.
        MachineError: as `decoded`.
    """
    paths = _paths(where)
    base = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    names = [path.absolute().relative_to(base) for path in paths]
    samples: dict[str, list[_Sample]] = {}
    for number, path in enumerate(paths):
        samples.setdefault(_split(names[number]), []).extend(_samples(number, path))
    if not samples.get("train"):
        raise DataError(f"webdataset:{where}: no sample to train on in {listed(list(map(str, names)))}")
    highest = max(sample.label for sample in samples["train"])
    above = [sample for part in samples.values() for sample in part if sample.label > highest]
    if not highest or above:
        raise DataError(
            f"webdataset:{where}: expected labels from 0 to at least 1 in train, and no higher ones elsewhere, found 0 "
            f"to {highest} in train{f', and {above[0].label} in {above[0].name}' if above else ''}"
        )
    absent = sorted({*range(highest)} - {sample.label for sample in samples["train"]})
    if absent:
        these = listed([str(label) for label in absent])
        log(f"webdataset:{where}: labels 0 to {highest}, of which {len(absent)} have no picture to train on: {these}")
    splits = {split: _pictures(paths, samples[split]) for split in ("train", "test", "val") if samples.get(split)}
    name = safe_name(base.resolve().name)
    return decoded(name, [str(label) for label in range(highest + 1)], held_out_names(splits), how)


def _paths(where: str) -> list[Path]:
    from braceexpand import braceexpand  # comes with webdataset, which imports torch

    if re.match(r"[a-z0-9]+:", where):
        raise UsageError(f"webdataset:{where}: expected local files; fetch the shards first")
    path = Path(where).expanduser()
    if path.is_dir():
        paths = sorted(path.glob("*.tar"))
    else:
        try:
            patterns = list(braceexpand(str(path)))
        except ValueError:
            raise UsageError(f"webdataset:{where}: its braces are not balanced") from None
        paths = [Path(p) for pattern in patterns for p in (sorted(glob.glob(pattern)) or [pattern])]  # noqa: PTH207 - absolute patterns too
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise DataError(f"webdataset:{where}: no such tar files: {listed(missing, 3) or 'the directory holds none'}")
    return paths


def _split(name: Path) -> str:
    """Say of which split a shard is, by the last of its names that has a word for one."""
    words = [word for part in reversed(name.parts) for word in re.split(r"[^A-Za-z]+", part)]
    return next(filter(None, map(split_of, words)), "train")


def _samples(number: int, path: Path) -> Iterator[_Sample]:
    """Yield the samples of one archive: neighbours whose names agree up to the first dot of the last part."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            key = ("", "")
            members: dict[str, tarfile.TarInfo] = {}
            for member in archive:
                directory, _, name = member.name.rpartition("/")
                if not member.isreg() or name.startswith("."):  # macOS puts ._NAME beside each file
                    continue
                stem, dot, ending = name.partition(".")
                if (directory, stem) != key and members:
                    yield _sample(number, path, archive, members)
                    members = {}
                key = (directory, stem)
                members[(dot + ending).lower()] = member
            if members:
                yield _sample(number, path, archive, members)
            file.seek(archive.offset)  # tarfile takes what is no header for the end; zeros, or nothing, are one
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {archive.offset}")
    except (tarfile.TarError, EOFError, ValueError) as error:  # the last of numbers that are none
        raise DataError(f"{path}: no whole, plain tar file ({error}); where it is compressed, unpack it") from None


def _sample(number: int, path: Path, archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> _Sample:
    pictures = [member for ending, member in members.items() if ending.endswith(EXTENSIONS)]
    if len(pictures) != 1 or LABEL not in members:
        names = listed([shown(member.name) for member in members.values()])
        raise DataError(f"{path}: expected one picture and its label (.cls) in each sample, found {names}")
    file = archive.extractfile(members[LABEL])
    text = file.read(MAX_LABEL_BYTES).strip() if file else b""
    if not text.isdigit() or int(text) > MAX_LABEL:
        raise DataError(
            f"{path}, {shown(members[LABEL].name)}: expected a label from 0 to {MAX_LABEL}, found {shown(text)}"
        )
    (picture,) = pictures
    return _Sample(number, picture.name, picture.offset_data, picture.size, int(text))


def _pictures(paths: list[Path], samples: list[_Sample]) -> Pictures:
    def name(number: int) -> str:
        return f"{paths[samples[number].archive]}, {samples[number].name}"

    def open_picture(number: int) -> IO[bytes]:
        sample = samples[number]
        with paths[sample.archive].open("rb") as file:
            return io.BytesIO(os.pread(file.fileno(), sample.size, sample.offset))

    return Pictures(np.array([sample.label for sample in samples], np.int64), name, open_picture)
