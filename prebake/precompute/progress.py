"""Progress on stderr: a bar on a terminal, one line per epoch elsewhere."""

import sys
import time
from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

from prebake.console import log
from prebake.format.manifest import Shard

__all__ = ["Progress", "gigabytes"]


def gigabytes(count: float) -> str:
    """Return a number of bytes as text with a unit."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} bytes"


class Progress:
    """Counts the images and bytes of finished shards.

    Args:
        name: of the data set.
        action: a verb, such as `bake`.
        shards: all that will be updated.
    """

    def __init__(self, name: str, action: str, shards: Sequence[Shard]) -> None:
        self._title = f"{action} {name}"
        self._images = sum(shard.samples for shard in shards)
        self._bytes = sum(shard.size_bytes for shard in shards)
        self._left = Counter((shard.split, shard.epoch) for shard in shards)
        self._images_done = self._bytes_done = 0
        self._started = time.monotonic()
        self._bar = tqdm(
            total=self._images, desc=self._title, unit=" images", unit_scale=True, disable=not sys.stderr.isatty()
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, shard: Shard) -> None:
        """Count a finished shard; without a terminal, the last one of an epoch prints a line."""
        self._images_done += shard.samples
        self._bytes_done += shard.size_bytes
        volume = f"{gigabytes(self._bytes_done)} of {gigabytes(self._bytes)}"
        self._bar.set_postfix_str(volume, refresh=False)
        self._bar.update(shard.samples)
        epoch = (shard.split, shard.epoch)
        self._left[epoch] -= 1
        if self._left[epoch] or not self._bar.disable:
            return
        rate = self._images_done / max(time.monotonic() - self._started, 1e-9)
        left = (self._images - self._images_done) / rate
        where = f"train epoch {shard.epoch}" if shard.split == "train" else shard.split
        log(
            f"{self._title}: {where} done, {self._images_done:,} of {self._images:,} images, "
            f"{rate:,.0f} images/s, {volume}, {left:.0f} s left"
        )
