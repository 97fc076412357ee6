"""Decoding: the picture files of a data set become pixels, once, many at a time.

They are decoded before anything is planned: mean, deviation and the hash that tells data apart need all pixels, and
every epoch needs them again, in another order. So they are kept, in a file without a name; it takes one byte a value,
as much as one epoch of the shards at most.
"""

import math
import queue
import shutil
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from prebake.console import log
from prebake.cores import usable_cores
from prebake.errors import DataError, MachineError, UsageError, listed
from prebake.loader.image_file import Look, look, pixels_of, why
from prebake.precompute.images import Images, SourceData
from prebake.precompute.pixels import Chosen, PixelFile, Pixels
from prebake.precompute.progress import gigabytes
from prebake.signals import defer_signals

__all__ = ["Decoding", "Pictures", "decoded"]

T = TypeVar("T")
CHUNK = 32  # pictures that a thread takes at a time
MAX_SIDE = 4096


@dataclass(frozen=True)
class Decoding:
    """How picture files become pixels.

    Attributes:
        image_size: side in pixels of the square that each becomes; None: all have one size, and keep it.
        skip_unreadable: leave out what can't be read, where else nothing is baked.
        workers: threads; None: one a core.
        scratch: directory of the file that pixels lie in while they are needed; None: the system's temporary one.
    """

    image_size: int | None = None
    skip_unreadable: bool = False
    workers: int | None = None
    scratch: Path | None = None


@dataclass(frozen=True)
class Pictures:
    """The picture files of one split.

    Attributes:
        labels_N: of each, int64.
        name: says which one number i is.
        open: opens number i to be read.
    """

    labels_N: NDArray[np.int64]
    name: Callable[[int], str]
    open: Callable[[int], IO[bytes]]


def decoded(name: str, classes: Sequence[str], splits: Mapping[str, Pictures], how: Decoding) -> SourceData:
    """Decode all pictures of a data set.

    Raises:
        UsageError: an image size outside 1 to 4096.
        DataError: pictures that can't be read, or of several sizes where none is asked for.
        MachineError: no space for the pixels.
    """
    if how.image_size is not None and not 1 <= how.image_size <= MAX_SIDE:
        raise UsageError(f"--image-size: expected 1 to {MAX_SIDE} pixels, found {how.image_size}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, over harmless oddities of files
        return _Decoder(name, splits, how).run(classes)


class _Decoder:
    """One data set's decoding; `bad` says why each picture that can't be read can't, by split and number."""

    def __init__(self, name: str, splits: Mapping[str, Pictures], how: Decoding) -> None:
        self._name, self._splits, self._how = name, splits, how
        self._bad: dict[tuple[str, int], str] = {}
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._grey: Counter[bool] = Counter()
        self._frames = 0
        self._lock = threading.Lock()

    def run(self, classes: Sequence[str]) -> SourceData:
        self._each("look at", look, self._note)
        shape = self._shape()
        counts = {split: len(pictures.labels_N) for split, pictures in self._splits.items()}
        scratch = self._how.scratch or Path(tempfile.gettempdir())
        _check_space(sum(counts.values()) * math.prod(shape), scratch)
        files = {split: PixelFile.unnamed((count, *shape), scratch) for split, count in counts.items()}

        size = None if self._how.image_size is None else shape[:2]

        def decode(file: IO[bytes]) -> NDArray[np.uint8]:
            image_HWC = pixels_of(file, shape[2], size)
            if image_HWC.shape != shape:
                raise ValueError(f"{image_HWC.shape[1]}x{image_HWC.shape[0]} pixels, where its header says otherwise")
            return image_HWC

        def keep(split: str, number: int, image_HWC: NDArray[np.uint8]) -> None:
            files[split].write(number, image_HWC[None])

        self._each("decode", decode, keep)
        self._judge()
        return SourceData(self._name, tuple(classes), {split: self._kept(split, files[split]) for split in files})

    def _each(self, action: str, read: Callable[[IO[bytes]], T], keep: Callable[[str, int, T], None]) -> None:
        """Read every picture that nothing was wrong with yet, in threads, and keep what that gives; show progress."""
        total = sum(len(pictures.labels_N) for pictures in self._splits.values())
        started = time.monotonic()
        stopped = threading.Event()

        def do(split: str, numbers: range) -> int:
            pictures = self._splits[split]
            for number in numbers:
                if stopped.is_set():
                    raise CancelledError
                if (split, number) in self._bad:
                    continue
                try:
                    with pictures.open(number) as file:
                        found = read(file)
                except MemoryError:
                    raise
                except Exception as error:  # Pillow's readers raise whatever damaged bytes make of them; all is told
                    with self._lock:
                        self._bad[split, number] = why(error)
                    continue
                keep(split, number, found)
            return len(numbers)

        chunks = [
            (split, range(len(pictures.labels_N))[start : start + CHUNK])
            for split, pictures in self._splits.items()
            for start in range(0, len(pictures.labels_N), CHUNK)
        ]
        with tqdm(total=total, desc=f"{action} {self._name}", unit=" pictures", unit_scale=True, disable=None) as bar:
            _in_threads(do, chunks, self._how.workers or usable_cores(), stopped, bar.update)
        rate = total / max(time.monotonic() - started, 1e-9)
        if bar.disable:
            log(f"{action} {self._name}: {total:,} pictures, {rate:,.0f} a second")

    def _note(self, _split: str, _number: int, seen: Look) -> None:
        with self._lock:
            self._sizes[seen.size] += 1
            self._grey[seen.grey] += 1
            self._frames += seen.frames

    def _shape(self) -> tuple[int, int, int]:
        """Return height, width and channels that all images will have."""
        if not self._sizes:
            self._refuse()
        if self._frames:
            log(f"{self._name}: {self._frames} pictures have several frames, of which the first one is taken")
        channels = 3 if self._grey[False] else 1
        side = self._how.image_size
        if side is not None:
            return side, side, channels
        if len(self._sizes) > 1:
            sizes = [f"{width}x{height} ({times:,})" for (height, width), times in self._sizes.most_common()]
            raise DataError(
                f"{self._name}: pictures of {len(sizes)} sizes, {listed(sizes, 4)}; name the side in pixels to which "
                "all are resized and cropped, such as --image-size 64"
            )
        ((height, width),) = self._sizes
        return height, width, channels

    def _judge(self) -> None:
        """Name what can't be read; stop where that is not to be left out."""
        for split, number in sorted(self._bad):
            log(f"unreadable: {self._words(split, number)}")
        if self._bad and not self._how.skip_unreadable:
            self._refuse()
        for split, pictures in self._splits.items():
            if sum(where == split for where, _ in self._bad) == len(pictures.labels_N):
                self._refuse()
        if self._bad:
            log(f"{self._name}: {len(self._bad)} unreadable pictures are left out")

    def _refuse(self) -> None:
        total = sum(len(pictures.labels_N) for pictures in self._splits.values())
        named = [self._words(split, number) for split, number in sorted(self._bad)]
        raise DataError(
            f"{self._name}: {len(named):,} of {total:,} pictures can't be read: {listed(named, 8)}. Mend or remove "
            "them, or leave them out with --skip-unreadable, which needs some that can be read"
        )

    def _words(self, split: str, number: int) -> str:
        return f"{self._splits[split].name(number)} ({self._bad[split, number]})"

    def _kept(self, split: str, pixels: Pixels) -> Images:
        labels_N = self._splits[split].labels_N
        bad = [number for where, number in self._bad if where == split]
        if not bad:
            return Images(pixels, labels_N)
        kept = np.delete(np.arange(len(labels_N)), bad)
        return Images(Chosen(pixels, kept), labels_N[kept])


def _check_space(needed: int, scratch: Path) -> None:
    free = shutil.disk_usage(scratch).free
    if needed > free:
        raise MachineError(
            f"{scratch}: {gigabytes(needed)} of decoded pixels are to lie there for a while, {gigabytes(free)} are "
            "free; free some space, or take a smaller --image-size"
        )


def _in_threads(
    do: Callable[[str, range], int],
    chunks: Sequence[tuple[str, range]],
    workers: int,
    stopped: threading.Event,
    add: Callable[[int], object],
) -> None:
    """Do all chunks; the first failure, or an interruption, sets the event and ends all."""
    done: queue.SimpleQueue[Future[int]] = queue.SimpleQueue()
    with ThreadPoolExecutor(workers) as pool:
        try:
            with defer_signals():  # as in prebake.precompute.workers
                for split, numbers in chunks:
                    pool.submit(do, split, numbers).add_done_callback(done.put)
            for _ in chunks:
                add(done.get().result())
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
