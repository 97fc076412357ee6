"""Progress on stderr: a bar on a terminal, one line an epoch elsewhere."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

from prebake.console import log
from prebake.format.manifest import Shard

__all__ = ["Progress", "gigabytes"]


def gigabytes(count: float) -> str:
    """Write a number of bytes for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} bytes"


class Progress:
    """Counts images and bytes over all shards to do; safe to call from many threads."""

    def __init__(self, name: str, action: str, todo: Sequence[Shard]) -> None:
        self._name, self._action = name, action
        self._images = sum(shard.samples for shard in todo)
        self._bytes = sum(shard.size_bytes for shard in todo)
        self._image_bytes = self._bytes / max(1, self._images)
        self._left = Counter((shard.split, shard.epoch) for shard in todo)
        self._done = 0
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._bar = tqdm(
            total=self._images,
            desc=f"{action} {name}",
            unit=" images",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, images: int) -> None:
        """Count images done."""
        with self._lock:
            self._done += images
            self._bar.set_postfix_str(self._volume(), refresh=False)
            self._bar.update(images)

    def finish(self, shard: Shard) -> None:
        """Note that a shard is whole; the last one of an epoch is worth a line."""
        with self._lock:
            epoch = (shard.split, shard.epoch)
            self._left[epoch] -= 1
            if self._left[epoch] or not self._bar.disable:
                return
            seconds = time.monotonic() - self._started
            rate = self._done / max(seconds, 1e-9)
            left = (self._images - self._done) / max(rate, 1e-9)
            where = f"train epoch {shard.epoch}" if shard.split == "train" else shard.split
            log(
                f"{self._action} {self._name}: {where} done, {self._done:,} of {self._images:,} images, "
                f"{rate:,.0f} images/s, {self._volume()}, {left:.0f} s left"
            )

    def _volume(self) -> str:
        return f"{gigabytes(self._done * self._image_bytes)} of {gigabytes(self._bytes)}"
