"""Decode picture files into pixels, with several threads, once per bake.

The pixels are needed more than once: for mean, standard deviation and digest, and for every epoch. They are kept in a
temporary file without a name, at one byte a value, which is at most as large as one epoch of the shards.
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
from dataclasses import dataclass, replace
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
from prebake.precompute.pixels import Chosen, PixelFile
from prebake.precompute.progress import gigabytes
from prebake.precompute.sources.registry import Decoding
from prebake.signals import defer_signals

__all__ = ["Pictures", "Unreadable", "check_side", "decode", "pixel_file"]

T = TypeVar("T")
CHUNK = 32  # pictures that a thread takes at a time
MAX_SIDE = 4096
MAX_12_BITS = 4095 >> 8  # the upper byte of a 16-bit value


@dataclass(frozen=True)
class Pictures:
    """The picture files of one split.

    Attributes:
        labels_N: int64.
        name: returns the name of picture i, for messages.
        open: opens picture i for reading.
    """

    labels_N: NDArray[np.int64]
    name: Callable[[int], str]
    open: Callable[[int], IO[bytes]]


class Unreadable:
    """Collects pictures that cannot be read, and decides what follows; safe to call from many threads."""

    def __init__(self, source: str, counts: Mapping[str, int], how: Decoding) -> None:
        self._source, self._counts, self._skip = source, counts, how.skip_unreadable
        self._found: dict[str, dict[int, str]] = {split: {} for split in counts}

    def add(self, split: str, number: int, words: str) -> None:
        """Record a picture; `words` name it and say what is wrong."""
        self._found[split][number] = words

    def has(self, split: str, number: int) -> bool:
        return number in self._found[split]

    def judge(self) -> dict[str, NDArray[np.int64]]:
        """Return the numbers of the readable pictures of each split, (n,).

        Raises:
            DataError: some cannot be read and are not to be skipped, or a split has no readable one.
        """
        words = [words for found in self._found.values() for _, words in sorted(found.items())]
        for each in words:
            log(f"unreadable: {each}")
        empty = any(len(found) == self._counts[split] for split, found in self._found.items())
        if empty or (words and not self._skip):
            raise DataError(
                f"{self._source}: {len(words):,} of {sum(self._counts.values()):,} pictures can't be read: "
                f"{listed(words, 8)}. Mend or remove them, or leave them out with --skip-unreadable, which needs some "
                "that can be read"
            )
        return {split: np.delete(np.arange(count), [*self._found[split]]) for split, count in self._counts.items()}

    def phrases(self) -> tuple[str, ...]:
        """Return a phrase for the summary, if there is something to say."""
        count = sum(map(len, self._found.values()))
        return (f"{count:,} pictures that cannot be read",) if count else ()


def decode(source: SourceData, splits: Mapping[str, Pictures], how: Decoding) -> SourceData:
    """Return a data set with all its pictures decoded.

    Args:
        source: all but the splits.
        splits: the pictures.
        how: see there.

    Raises:
        UsageError: an image size outside 1 to 4096.
        DataError: pictures that cannot be read, or of several sizes and no `image_size`.
        MachineError: not enough space for the pixels.
    """
    check_side(how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of harmless oddities of files
        return _Decoder(source, splits, how).run()


def check_side(how: Decoding) -> None:
    """Raise UsageError where the image size is outside 1 to 4096."""
    if how.image_size is not None and not 1 <= how.image_size <= MAX_SIDE:
        raise UsageError(f"--image-size: expected 1 to {MAX_SIDE} pixels, found {how.image_size}")


def pixel_file(shapes: Sequence[tuple[int, ...]], how: Decoding) -> list[PixelFile]:
    """Create temporary files for images of these shapes (N, H, W, C); raises MachineError: not enough space."""
    scratch = how.scratch or Path(tempfile.gettempdir())
    needed, free = sum(map(math.prod, shapes)), shutil.disk_usage(scratch).free
    if needed > free:
        raise MachineError(
            f"{scratch}: {gigabytes(needed)} of decoded pixels are stored there during the bake, {gigabytes(free)} are "
            "free; free some space, or take a smaller --image-size"
        )
    return [PixelFile.unnamed(shape, scratch) for shape in shapes]


class _Decoder:
    """Decodes one data set in two passes: the first reads the headers, the second the pixels."""

    def __init__(self, source: SourceData, splits: Mapping[str, Pictures], how: Decoding) -> None:
        self._source, self._splits, self._how = source, splits, how
        counts = {split: len(pictures.labels_N) for split, pictures in splits.items()}
        self._unreadable = Unreadable(source.name, counts, how)
        self._total = sum(counts.values())
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._kinds: Counter[str] = Counter()
        self._deepest = 0
        self._lock = threading.Lock()

    def run(self) -> SourceData:
        deep: set[tuple[str, int]] = set()

        def note(split: str, number: int, seen: Look) -> None:
            with self._lock:
                self._sizes[seen.size] += 1
                self._kinds.update({"colour": not seen.grey, "frames": seen.frames, "deep": seen.deep})
                if seen.deep:
                    deep.add((split, number))

        self._each("look at", look, note)
        shape = self._shape()
        counts = [(len(pictures.labels_N), *shape) for pictures in self._splits.values()]
        files = dict(zip(self._splits, pixel_file(counts, self._how), strict=True))
        size = None if self._how.image_size is None else shape[:2]

        def read(file: IO[bytes]) -> NDArray[np.uint8]:
            image_HWC = pixels_of(file, shape[2], size)
            if image_HWC.shape != shape:
                raise ValueError(f"{image_HWC.shape[1]}x{image_HWC.shape[0]} pixels, where its header says otherwise")
            return image_HWC

        def keep(split: str, number: int, image_HWC: NDArray[np.uint8]) -> None:
            files[split].write(number, image_HWC[None])
            if (split, number) in deep:
                with self._lock:
                    self._deepest = max(self._deepest, int(image_HWC.max()))

        self._each("decode", read, keep)
        kept = self._unreadable.judge()
        images = {}
        for split, numbers in kept.items():
            labels_N, pixels = self._splits[split].labels_N, files[split]
            whole = len(numbers) == len(labels_N)
            images[split] = Images(pixels if whole else Chosen(pixels, numbers), labels_N[numbers])
        left_out = self._source.left_out + self._unreadable.phrases()
        return replace(self._source, splits=images, left_out=left_out, notes=self._source.notes + self._notes())

    def _each(self, action: str, read: Callable[[IO[bytes]], T], keep: Callable[[str, int, T], None]) -> None:
        """Read every picture that is readable so far, in threads, and pass the result to `keep`; show progress."""
        started = time.monotonic()
        stopped = threading.Event()

        def work(split: str, numbers: range) -> int:
            pictures = self._splits[split]
            for number in numbers:
                if stopped.is_set():
                    raise CancelledError
                if self._unreadable.has(split, number):
                    continue
                try:
                    with pictures.open(number) as file:
                        found = read(file)
                except MemoryError:
                    raise
                except Exception as error:  # Pillow raises whatever damaged bytes lead to; all of it is reported
                    self._unreadable.add(split, number, f"{pictures.name(number)} ({why(error)})")
                    continue
                keep(split, number, found)
            return len(numbers)

        chunks = [
            (split, range(len(pictures.labels_N))[start : start + CHUNK])
            for split, pictures in self._splits.items()
            for start in range(0, len(pictures.labels_N), CHUNK)
        ]
        name = self._source.name
        with tqdm(total=self._total, desc=f"{action} {name}", unit=" pictures", unit_scale=True, disable=None) as bar:
            _in_threads(work, chunks, self._how.workers or usable_cores(), stopped, bar.update)
        rate = self._total / max(time.monotonic() - started, 1e-9)
        if bar.disable:
            log(f"{action} {name}: {self._total:,} pictures, {rate:,.0f} a second")

    def _shape(self) -> tuple[int, int, int]:
        """Return height, width and channels of all images."""
        if not self._sizes:
            self._unreadable.judge()  # which raises
        channels = 3 if self._kinds["colour"] else 1
        side = self._how.image_size
        if side is not None:
            return side, side, channels
        if len(self._sizes) > 1:
            sizes = [f"{width}x{height} ({times:,})" for (height, width), times in self._sizes.most_common()]
            raise DataError(
                f"{self._source.name}: pictures of {len(sizes)} sizes, {listed(sizes, 4)}; name the side in pixels to "
                "which all are resized and cropped, such as --image-size 64"
            )
        ((height, width),) = self._sizes
        return height, width, channels

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self._kinds["frames"]:
            notes.append(f"{self._kinds['frames']:,} pictures have several frames, and the first one is taken")
        if self._kinds["deep"] and self._deepest <= MAX_12_BITS:
            notes.append(
                f"{self._kinds['deep']:,} pictures have 16 bits and no value above 4095, so that at most 16 of 256 "
                "levels are left; multiply them by 16 first if they hold 12 bits"
            )
        return tuple(notes)


def _in_threads(
    work: Callable[[str, range], int],
    chunks: Sequence[tuple[str, range]],
    workers: int,
    stopped: threading.Event,
    add: Callable[[int], object],
) -> None:
    """Do all chunks; the first failure, or an interruption, sets the event and ends all."""
    done: queue.SimpleQueue[Future[int]] = queue.SimpleQueue()
    with ThreadPoolExecutor(workers) as pool:
        try:
            with defer_signals():
                for split, numbers in chunks:
                    pool.submit(work, split, numbers).add_done_callback(done.put)
            for _ in chunks:
                add(done.get().result())
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
