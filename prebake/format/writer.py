"""Writing one shard: its archive, then its index."""

from collections.abc import Callable

import xxhash

from prebake.format.index import Extent, Index
from prebake.format.record import BLOCK_BYTES, Frame, Layout
from prebake.format.shard import Shard
from prebake.storage.atomic import whole_file, write_all, write_whole
from prebake.storage.files import Location
from prebake.storage.remote import Remote
from prebake.storage.temp_dir import scratch

__all__ = ["write_shard"]


def write_shard(
    directory: Location,
    shard: Shard,
    identity: str,
    fill: Callable[[int, Frame], None],
    token: str = "",
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write one shard and then its index, which gets on the disk after the archive has its name there.

    A shard that is to lie elsewhere is written on this disk first, and goes there when it is whole, and then its index.

    Args:
        directory: the shard set.
        shard: what to write.
        identity: of the plan.
        fill: called for every record with the number of its first sample in the epoch and a frame
            whose arrays it must fill completely (the frame is reused: it holds the last record's).
        token: a part of the temporary names, another one for each who may write this shard at once.
        check: called before each upload: it raises where the set has become another one meanwhile.

    Raises:
        OSError: no space, no permission; nothing that is not whole stands under a final name then.
        MachineError: elsewhere, no answer, or access denied; likewise.
    """
    if isinstance(directory, Remote):
        with scratch() as here:
            write_shard(here, shard, identity, fill)
            for name in (shard.tar, shard.index):
                check()
                (directory / name).upload(here / name)
        return
    frames: dict[Layout, Frame] = {}
    extents: list[Extent] = []
    offset = 0
    digest = xxhash.xxh3_128()
    with whole_file(directory / shard.tar, token) as file:
        for key, layout in shard.records():
            if layout not in frames:
                frames[layout] = Frame(layout)
            frame = frames[layout]
            frame.name(key)
            fill(shard.first_sample + len(extents) * shard.record_samples, frame)
            write_all(file, frame.extent)
            digest.update(frame.extent)
            xxh3 = xxhash.xxh3_64_intdigest(frame.extent)
            extents.append(Extent(key, layout.samples, offset, layout.size_bytes, xxh3))
            offset += layout.size_bytes
        end = bytes(2 * BLOCK_BYTES)
        write_all(file, end)
        digest.update(end)
    index = Index(shard.tar, identity, offset + len(end), digest.hexdigest(), tuple(extents))
    write_whole(directory / shard.index, index.to_bytes(), token)
