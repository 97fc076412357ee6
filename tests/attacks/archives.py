"""Attacks by an archive's content, under hashes that fit: each changes the first shard of a set."""

import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import xxhash

from prebake.loader.shard_set import ShardSet
from tests.attacks.hostile import INDEX, TAR, reseal

Edit = Callable[[bytearray], object]


def rewrite(directory: Path, edit: Edit) -> None:
    """Change an archive's bytes, and make its index fit them."""
    data = bytearray((directory / TAR).read_bytes())
    edit(data)
    (directory / TAR).write_bytes(data)

    def fit(content: dict[str, object]) -> None:
        records = content["records"]
        assert isinstance(records, list)
        for record in records:
            start = record["offset"]
            record["xxh3"] = xxhash.xxh3_64_hexdigest(data[start : start + record["bytes"]])
        content["xxh3"] = xxhash.xxh3_128_hexdigest(data)

    reseal(directory / INDEX, fit)


def lying_npy_header(directory: Path) -> None:
    """The header of the images says that they are objects, to be unpickled, of another shape."""

    def edit(data: bytearray) -> None:
        at = data.index(b"'descr': '|u1'")
        data[at : at + 14] = b"'descr': '|O' "
        data[data.index(b"(128, 3") + 1 : data.index(b"(128, 3") + 4] = b"999"

    rewrite(directory, edit)


def lying_tar_headers(directory: Path) -> None:
    """The members bear other names: one escapes the directory, one is a link, one is a pickle."""

    def edit(data: bytearray) -> None:
        layout = next(ShardSet(directory).open_shards("train")).layouts[0]
        starts = [offset - 640 for offset in layout.offsets.values()]
        for start, name in zip(starts, (b"../../owned.npy", b"e000-r00000.pyd", b"/etc/owned.npy"), strict=True):
            header = bytearray(data[start : start + 512])
            header[:100] = name.ljust(100, b"\0")
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
            data[start : start + 512] = header

    rewrite(directory, edit)


class Payload:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path(self.path),)  # type: ignore[return-value] # any callable and its arguments


def pickled_member(directory: Path) -> None:
    """The images' pixels make room for a member of a tar that holds a pickle, which webdataset would load."""

    def edit(data: bytearray) -> None:
        evil = pickle.dumps(Payload(directory / "owned"))
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            member = tarfile.TarInfo("e000-r00000.pyd")
            member.size = len(evil)
            archive.addfile(member, io.BytesIO(evil))
        data[: 2 * 512] = file.getvalue()[: 2 * 512]

    rewrite(directory, edit)


def compressed(directory: Path) -> None:
    """The archive begins as one of gzip does."""
    rewrite(directory, lambda data: data.__setitem__(slice(0, 4), b"\x1f\x8b\x08\x00"))


def behind_the_end(directory: Path) -> None:
    """What stands behind the last record is not zero."""
    rewrite(directory, lambda data: data.__setitem__(-700, 1))


def _label(directory: Path, label: int) -> None:
    layout = next(ShardSet(directory).open_shards("train")).layouts[0]
    at = layout.offsets["labels"] + 8 * 5
    rewrite(directory, lambda data: data.__setitem__(slice(at, at + 8), struct.pack("<q", label)))


def label_beyond(directory: Path) -> None:
    """A label is the number of classes."""
    _label(directory, 4)


def label_negative(directory: Path) -> None:
    """A label is -1, which PyTorch's loss would take for an index from the end."""
    _label(directory, -1)


def label_huge(directory: Path) -> None:
    """A label is 2^63 - 1."""
    _label(directory, 2**63 - 1)


def label_least(directory: Path) -> None:
    """A label is -2^63."""
    _label(directory, -(2**63))


def source_index_huge(directory: Path) -> None:
    """The source index of an image is 2^32 - 1; whoever counts by it runs over."""
    layout = next(ShardSet(directory).open_shards("train")).layouts[0]
    at = layout.offsets["index"]
    rewrite(directory, lambda data: data.__setitem__(slice(at, at + 4), b"\xff" * 4))
