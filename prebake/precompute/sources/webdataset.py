"""WebDataset shards of pictures: plain tar files in which `KEY.png` and `KEY.cls` follow each other."""

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
from numpy.typing import NDArray

from prebake.errors import DataError, UsageError, listed, quote
from prebake.loader.image_file import EXTENSIONS
from prebake.precompute.images import SourceData
from prebake.precompute.sources.folder import walk_files
from prebake.precompute.sources.labels import number_labels
from prebake.precompute.sources.pictures import Pictures, decode
from prebake.precompute.sources.registry import Decoding, Source, absolute_path, register
from prebake.precompute.sources.splits import held_out_names, safe_name, split_of

LABEL = ".cls"
MAX_LABEL_BYTES = 1024
COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tar\.\w+|zip|7z|rar)$", re.IGNORECASE)


@dataclass(frozen=True)
class _Sample:
    """A picture: its archive, its name there, offset and size in bytes; and the text of its label."""

    archive: int
    name: str
    offset: int
    size: int
    label: str


def read_webdataset(argument: str, _data_dir: Path, how: Decoding) -> SourceData:
    """Read local WebDataset shards: a directory of them, or a path with braces or wildcards.

    A shard belongs to the split that its file name names as a word, or else a directory that not all shards lie in.
    Shards that name no split are training data where no shard names train, and are left out where one does.

    Raises:
        UsageError: not local, or as `decode`.
        DataError: no such files, or other files than plain tar files of pictures with labels, or as `decode`.
        MachineError: as `decode`.
    """
    where = f"webdataset:{argument}"
    paths, left_out = _paths(argument)
    base = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    names = [path.absolute().relative_to(base) for path in paths]
    splits = _splits(where, names, left_out)
    samples: dict[str, list[_Sample]] = {}
    for number, path in enumerate(paths):
        if (split := splits[number]) is not None:
            found = list(_samples(number, path))
            samples.setdefault(split, []).extend(found)
            if not found:
                left_out.append(f"{names[number]}, which has no samples")
    if not samples.get("train"):
        raise DataError(f"{where}: no sample to train on in {listed(list(map(str, names)))}")
    samples = {split: samples[split] for split in ("train", "test", "val") if samples.get(split)}
    numbered = number_labels(where, {split: _numbers(part) for split, part in samples.items()})
    if len(numbered.classes) < 2:
        raise DataError(f"{where}: expected at least two classes in train, found only {listed(numbered.classes)}")
    pictures = {split: _pictures(paths, part, numbered.splits[split]) for split, part in samples.items()}
    name = safe_name(base.resolve().name)
    about = SourceData(name, numbered.classes, {}, left_out=tuple(left_out), notes=numbered.notes)
    return decode(about, held_out_names(pictures), how)


def _paths(argument: str) -> tuple[list[Path], list[str]]:
    """Return the tar files, and phrases about what is left out."""
    from braceexpand import braceexpand  # comes with webdataset, which imports torch

    if re.match(r"[a-z0-9]+:", argument):
        raise UsageError(f"webdataset:{argument}: expected local files; fetch the shards first")
    path = Path(argument).expanduser()
    others: list[str] = []
    if path.is_dir():
        files = sorted(Path(directory, name) for directory, names in walk_files(path) for name in names)
        paths = [file for file in files if file.suffix.lower() == ".tar"]
        others = [str(file.relative_to(path)) for file in files if file not in {*paths}]
    else:
        try:
            patterns = list(braceexpand(str(path)))
        except ValueError:
            raise UsageError(f"webdataset:{argument}: its braces are not balanced") from None
        paths = [Path(p) for pattern in patterns for p in (sorted(glob.glob(pattern)) or [pattern])]  # noqa: PTH207 - absolute patterns too
    compressed = [name for name in [*map(str, paths), *others] if COMPRESSED.search(name)]
    if compressed:
        raise DataError(
            f"webdataset:{argument}: {len(compressed)} archives are compressed: {listed(compressed, 3)}; unpack them "
            "into plain tar files, or name the plain ones alone with a pattern such as 'DIR/*.tar'"
        )
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise DataError(f"webdataset:{argument}: no such tar files: {listed(missing, 3) or 'the directory holds none'}")
    real = [os.path.realpath(path) for path in paths]
    twice = sorted({str(path) for path, target in zip(paths, real, strict=True) if real.count(target) > 1})
    if twice:
        raise DataError(f"webdataset:{argument}: {len(twice)} names mean the same tar files: {listed(twice, 3)}")
    return paths, [f"{len(others)} files that are no tar files ({listed(others, 4)})"] if others else []


def _splits(where: str, names: list[Path], left_out: list[str]) -> list[str | None]:
    """Return the split of each shard; None: it is left out."""
    found = [_split(where, name) for name in names]
    if "train" not in found:
        return [split or "train" for split in found]
    unnamed = [str(name) for name, split in zip(names, found, strict=True) if split is None]
    if unnamed:
        left_out.append(f"{len(unnamed)} tar files that name no split ({listed(unnamed, 4)})")
    return found


def _split(where: str, name: Path) -> str | None:
    """Return the split that a shard's name names: its file name, or else the nearest directory that names one."""
    for part in reversed(name.parts):
        words = [word for word in re.split(r"[^A-Za-z]+", part) if split_of(word)]
        if len({split_of(word) for word in words}) > 1:
            raise DataError(f"{where}: {name} names two splits, {listed(words)}; rename it")
        if words:
            return split_of(words[0])
    return None


def _samples(number: int, path: Path) -> Iterator[_Sample]:
    """Yield the samples of one archive: neighbours whose names agree up to the first dot of the last part."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            key = ("", "")
            members: dict[str, tarfile.TarInfo] = {}
            for member in archive:
                directory, _, name = member.name.rpartition("/")
                if member.isdir() or name.startswith("."):  # macOS puts ._NAME beside each file
                    continue
                if not member.isreg():
                    raise DataError(f"{path}: {quote(member.name)} is a link or a device; expected regular files")
                stem, dot, extension = name.partition(".")
                if (directory, stem) != key and members:
                    yield _sample(number, path, archive, members)
                    members = {}
                key, extension = (directory, stem), (dot + extension).lower()
                if extension in members:
                    raise DataError(
                        f"{path}: {quote(member.name)} repeats the key {quote(stem)} of the sample before it; each "
                        "sample needs a key of its own"
                    )
                members[extension] = member
            if members:
                yield _sample(number, path, archive, members)
            file.seek(archive.offset)  # tarfile takes anything but a header for the end; the end is zeros, or nothing
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {archive.offset}")
    except (tarfile.TarError, EOFError, ValueError) as error:  # ValueError: numbers in a header that are none
        raise DataError(f"{path}: no whole, plain tar file ({error}); where it is compressed, unpack it") from None


def _sample(number: int, path: Path, archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> _Sample:
    pictures = [member for extension, member in members.items() if extension.endswith(EXTENSIONS)]
    if len(pictures) != 1 or LABEL not in members:
        names = listed([quote(member.name) for member in members.values()])
        raise DataError(f"{path}: expected one picture and its label (.cls) in each sample, found {names}")
    file = archive.extractfile(members[LABEL])
    data = file.read(MAX_LABEL_BYTES + 1).strip() if file else b""
    text = data.decode("utf-8", "backslashreplace")
    if not text or len(data) > MAX_LABEL_BYTES:
        raise DataError(f"{path}, {quote(members[LABEL].name)}: expected a label, found {quote(text, 40)}")
    (picture,) = pictures
    return _Sample(number, picture.name, picture.offset_data, picture.size, text)


def _numbers(samples: list[_Sample]) -> list[str] | list[int]:
    """Return the labels as numbers, where all of them are; as text else."""
    labels = [sample.label for sample in samples]
    return list(map(int, labels)) if all(re.fullmatch(r"-?[0-9]{1,18}", label) for label in labels) else labels


def _pictures(paths: list[Path], samples: list[_Sample], labels_N: NDArray[np.int64]) -> Pictures:
    def name(number: int) -> str:
        return f"{paths[samples[number].archive]}, {samples[number].name}"

    def open_picture(number: int) -> IO[bytes]:
        sample = samples[number]
        with paths[sample.archive].open("rb") as file:
            return io.BytesIO(os.pread(file.fileno(), sample.size, sample.offset))

    return Pictures(labels_N, name, open_picture)


register(
    Source(
        "webdataset",
        read_webdataset,
        "local WebDataset shards of pictures and .cls: data-{000..009}.tar",
        "URLS",
        absolute_path,
    )
)
