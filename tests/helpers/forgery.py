"""Forgeries: sets that hold something else than was baked, sealed again so that every checksum fits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash

from prebake.format.index import Index
from prebake.format.manifest import Plan, Shard
from prebake.format.record import Frame

__all__ = ["KINDS", "forge", "frame_of"]

Kind = Callable[[Frame, np.random.Generator], None]


def forge(directory: Path, shard: Shard, number: int, change: Callable[[Frame], None]) -> None:
    """Change one record, and give archive and index the checksums that are right again."""
    plan, path = Plan.read(directory), directory / shard.tar
    data = bytearray(path.read_bytes())
    offset = sum(layout.size_bytes for layout in shard.layouts[:number])
    frame = frame_of(data, shard, number)
    change(frame)
    data[offset : offset + len(frame.extent)] = frame.extent
    path.write_bytes(data)
    sums, start = [], 0
    for layout in shard.layouts:
        sums.append(xxhash.xxh3_64_intdigest(bytes(data[start : start + layout.size_bytes])))
        start += layout.size_bytes
    whole = xxhash.xxh3_128_hexdigest(bytes(data))
    (directory / shard.index).write_bytes(Index.planned(shard, plan.identity, whole, sums).to_bytes())


def frame_of(archive: bytes | bytearray, shard: Shard, number: int) -> Frame:
    """Return a record of an archive, to be changed."""
    frame = Frame(shard.layouts[number])
    offset = sum(layout.size_bytes for layout in shard.layouts[:number])
    frame.extent[:] = archive[offset : offset + len(frame.extent)]
    return frame


def _one(frame: Frame, rng: np.random.Generator) -> int:
    return int(rng.integers(frame.layout.samples))


def _two(frame: Frame, rng: np.random.Generator) -> list[int]:
    found: list[int] = rng.choice(frame.layout.samples, 2, replace=False).tolist()
    return found


def bit(frame: Frame, rng: np.random.Generator) -> None:
    """Turn one bit of one pixel's value."""
    pixels = frame.images_NHWC.reshape(-1).view(np.uint8)
    pixels[rng.integers(len(pixels))] ^= 1 << int(rng.integers(8))


def mirror(frame: Frame, rng: np.random.Generator) -> None:
    """Mirror one image."""
    image = frame.images_NHWC[_one(frame, rng)]
    image[...] = image[:, ::-1].copy()


def shift(frame: Frame, rng: np.random.Generator) -> None:
    """Crop one image elsewhere."""
    image = frame.images_NHWC[_one(frame, rng)]
    image[...] = np.roll(image, int(rng.integers(1, image.shape[0])), 0)


def blank(frame: Frame, rng: np.random.Generator) -> None:
    """Cut one image out as a whole."""
    frame.images_NHWC[_one(frame, rng)] = 0


def swap_images(frame: Frame, rng: np.random.Generator) -> None:
    """Swap the images of two samples."""
    a, b = _two(frame, rng)
    frame.images_NHWC[[a, b]] = frame.images_NHWC[[b, a]]


def swap_labels(frame: Frame, rng: np.random.Generator) -> None:
    """Swap the labels of two samples."""
    a, b = _two(frame, rng)
    frame.labels_N[[a, b]] = frame.labels_N[[b, a]]


def swap_indices(frame: Frame, rng: np.random.Generator) -> None:
    """Swap the source indices of two samples."""
    a, b = _two(frame, rng)
    frame.index_N[[a, b]] = frame.index_N[[b, a]]


def swap_samples(frame: Frame, rng: np.random.Generator) -> None:
    """Swap two samples with all that belongs to them."""
    a, b = _two(frame, rng)
    for array in (frame.images_NHWC, frame.index_N, frame.labels_N):
        array[[a, b]] = array[[b, a]]


def relabel(frame: Frame, rng: np.random.Generator) -> None:
    """Give one sample the next class."""
    at = _one(frame, rng)
    frame.labels_N[at] = (frame.labels_N[at] + 1) % 5


def repeat(frame: Frame, rng: np.random.Generator) -> None:
    """Put one sample in the place of another."""
    a, b = _two(frame, rng)
    for array in (frame.images_NHWC, frame.index_N, frame.labels_N):
        array[a] = array[b]


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        bit,
        mirror,
        shift,
        blank,
        swap_images,
        swap_labels,
        swap_indices,
        swap_samples,
        relabel,
        repeat,
    )
}
