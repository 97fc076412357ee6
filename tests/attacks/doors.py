"""All doors through which a hostile set is read, and what may come out of them."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xxhash

from prebake.errors import DataError, MachineError, PrebakeError, UsageError
from prebake.format.verify import damage
from prebake.loader.describe import describe, digest
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream

__all__ = ["BROKEN", "Guard", "by_batches", "by_stream", "samples_of", "visit"]

BATCH = 40
Read = tuple[list[bytes], PrebakeError | None]
BAD_EVENTS = (
    "exec",
    "compile",
    "pickle.find_class",
    "subprocess.",
    "socket.",
    "shutil.",
    "ctypes.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.utime",
    "os.setxattr",
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
BROKEN = 99  # the exit code of whoever does what a reader must not


def by_batches(data: ShardSet, split: str = "train", epoch: int = 0, batch_size: int = BATCH) -> Read:
    """Read an epoch with `ShardSet.batches`; return the samples that came, and the error that ended it."""
    found: list[bytes] = []
    try:
        for images, labels in data.batches(split, epoch, batch_size=batch_size):
            found += [image.tobytes() + label.tobytes() for image, label in zip(images, labels, strict=True)]
    except PrebakeError as error:
        return found, error
    return found, None


def by_stream(data: ShardSet, split: str = "train", epoch: int = 0, batch_size: int = BATCH) -> Read:
    """Read an epoch as training does; otherwise as `by_batches`."""
    found: list[bytes] = []
    try:
        with Stream(data, split, [epoch], batch_size) as stream:
            for images, labels in stream:
                pairs = zip(images.numpy(), labels.numpy(), strict=True)
                found += [image.tobytes() + label.tobytes() for image, label in pairs]
    except PrebakeError as error:
        return found, error
    return found, None


def samples_of(data: ShardSet, split: str, epoch: int) -> Iterator[bytes | None]:
    """Yield an epoch's samples as they lie in the archives, without our reader; None and no more where they are bad.

    Bad is a record that is not there or hashes otherwise than its index says, or has a label of no class.
    """
    for shard in data.plan.shards(split, epoch):
        try:
            tar = (data.path / shard.tar).read_bytes()
            sums = [record["xxh3"] for record in json.loads((data.path / shard.index).read_bytes())["records"]]
        except (OSError, ValueError, LookupError, TypeError):
            yield None
            return
        offset = 0
        for number, (_, layout) in enumerate(shard.records()):
            extent = tar[offset : offset + layout.size_bytes]
            offset += layout.size_bytes
            if (
                number >= len(sums)
                or len(extent) < layout.size_bytes
                or xxhash.xxh3_64_hexdigest(extent) != sums[number]
            ):
                yield None
                return
            size = layout.pixels_bytes // layout.samples
            labels = memoryview(extent)[layout.offsets["labels"] :][: 8 * layout.samples].cast("q")
            if not all(0 <= label < len(data.classes) for label in labels):
                yield None
                return
            for i, label in enumerate(labels):
                start = layout.pixels_offset + i * size
                yield extent[start : start + size] + label.to_bytes(8, "little")


def visit(directory: Path) -> list[PrebakeError]:
    """Go through all doors of a set; return the errors met.

    Raises:
        AssertionError: what came out of a door is not what the archives hold, or came in spite of damage.
    """
    errors = _visited(directory)
    for error in errors:
        assert str(error).isprintable(), repr(str(error))
        assert len(str(error)) < 4000, len(str(error))
    return errors


def _visited(directory: Path) -> list[PrebakeError]:
    errors: list[PrebakeError] = []

    def attempt(act: Callable[[], Any]) -> Any:
        try:
            return act()
        except (DataError, UsageError, MachineError) as error:
            errors.append(error)

    data = attempt(lambda: ShardSet(directory))
    if data is None:
        return errors
    attempt(lambda: json.dumps(describe(data)))
    attempt(lambda: digest(data))
    missing = set(data.missing())
    whole = [shard for shard in data.plan.shards() if shard.tar not in missing]
    troubles = {shard.tar: damage(directory, shard, data.plan) for shard in whole}
    errors += [DataError(trouble) for trouble in troubles.values() if trouble]
    for split in data.splits:
        for epoch in range(min(2, len(data.plan.splits[split]))):
            shards = data.plan.shards(split, epoch)
            clean = not any(shard.tar in missing or troubles[shard.tar] for shard in shards)
            for read in (by_batches, by_stream):
                found, error = read(data, split, epoch)
                _judge(data, split, epoch, found, error, clean)
                if error is not None:
                    errors.append(error)
    return errors


def _judge(data: ShardSet, split: str, epoch: int, found: list[bytes], error: PrebakeError | None, clean: bool) -> None:
    assert not (clean and error and not isinstance(error, MachineError)), f"verified, but not read: {error}"
    true = samples_of(data, split, epoch)
    for number, sample in enumerate(found):
        assert next(true, None) == sample, f"{split} epoch {epoch}: sample {number} is not what the archive holds"
    assert error is not None or next(true, "end") == "end", f"{split} epoch {epoch}: ended early, without an error"


class Guard:
    """Ends this process, a fork, at once where it runs code, starts a process, connects or writes inside `with`."""

    def __init__(self) -> None:
        self._watching = False
        sys.addaudithook(self._watch)  # a hook can't be taken away

    def __enter__(self) -> None:
        self._watching = True

    def __exit__(self, *_: object) -> None:
        self._watching = False

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if writes or event.startswith(BAD_EVENTS):
            os.write(2, f"a reader must not: {event} {str(arguments)[:300]}\n".encode())
            os._exit(BROKEN)
