"""python -m benchmarks.profile: where do a record's microseconds go, in the kernel and in the stream?

CIFAR-10, records of 128, one core each. Each part is timed alone, in the order in which it adds to the ones
above it; LOG.md keeps what was tried on them.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from benchmarks.measure import Fact, machine, report_facts, spread
from prebake.cli.run import run_command
from prebake.format.index import Index
from prebake.loader.shard_reader import RecordBuffer, ShardReader
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream
from prebake.precompute.augment import Encoder, ViewStore, augmentation_for, draw, order
from prebake.precompute.bake import bake
from prebake.precompute.images import channel_statistics
from prebake.precompute.sources import load

RECORD = 128
RING_RECORDS = 16  # four batches of 512
Part = Callable[[], object]


def main() -> None:
    """Measure the parts and print."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    options.add_argument("--data-dir", type=Path, default=Path("data"), help="torchvision root; default data")
    options.add_argument("--repetitions", type=int, default=9, help="rounds that count; default 9")
    options.add_argument("--json", action="store_true", help="print JSON")
    arguments = options.parse_args()
    about = machine("numpy", "torch", "xxhash")
    torch.set_num_threads(1)
    train = load("cifar10", arguments.data_dir).splits["train"]
    parts: dict[str, Part] = {}
    for dtype in ("uint8", "float16"):
        parts |= _kernel(train.images_NHWC, dtype)
    with tempfile.TemporaryDirectory() as directory:
        bake(train.images_NHWC, train.labels_N, name="cifar10", epochs=1, dtype="uint8", out=directory)
        parts |= _stream(ShardSet(directory))
        seconds = _interleaved(parts, arguments.repetitions)
    records = -(-len(train.labels_N) // RECORD)
    report_facts(
        "profile", {name: _fact(values, records) for name, values in seconds.items()}, about, as_json=arguments.json
    )


def _interleaved(parts: dict[str, Part], repetitions: int) -> dict[str, list[float]]:
    """Time an epoch's worth of each part in turn; return seconds, the first round thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(repetitions + 1):
        for name, part in parts.items():
            started = time.perf_counter()
            part()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _fact(seconds: list[float], records: int) -> Fact:
    microseconds = [1e6 * value / records for value in seconds]
    measured = f"{statistics.median(microseconds):.1f} us a record"
    return Fact("to be known", measured, len(seconds), {"us a record": spread(microseconds)})


def _kernel(images_NHWC: NDArray[np.uint8], dtype: str) -> dict[str, Part]:
    count, height, width, channels = images_NHWC.shape
    shape = height, width, channels
    augmentation = augmentation_for()
    encoder = Encoder(*channel_statistics(images_NHWC), dtype)
    encoded = encoder.encode(images_NHWC)
    ordered, drawn = order(0, 0, count), draw(augmentation, 0, 0, 0, count, shape)
    out: NDArray[Any] = np.empty((RECORD, *shape), encoded.dtype)
    places = [ordered[start : start + RECORD] for start in range(0, count - RECORD + 1, RECORD)]
    draws = [drawn[place] for place in places]

    def make(cutout: int) -> Part:
        store = ViewStore(images_NHWC, encoder, augmentation_for(cutout=cutout))

        def part() -> None:
            for place, choices in zip(places, draws, strict=True):
                store.make(place, choices, out)

        return part

    def take() -> None:
        for place in places:
            np.take(encoded, place, axis=0, out=out, mode="clip")

    def draw_all() -> None:
        draw(augmentation, 0, 1, 0, count, shape)[order(0, 1, count)]

    return {
        f"kernel, {dtype}: order and draws of an epoch": draw_all,
        f"kernel, {dtype}: crop and flip": make(0),
        f"kernel, {dtype}: crop, flip and cutout": make(augmentation.cutout),
        f"kernel, {dtype}: np.take of whole images": take,
    }


def _stream(data: ShardSet) -> dict[str, Part]:
    (shard,) = data.plan.shards("train", 0)
    index = Index.read(data.path, shard, data.plan.identity)
    largest = max(extent.size_bytes for extent in index.extents)
    sample_bytes = int(np.prod(data.image_shape("train")))

    def bare(buffers: int, *, check: bool) -> Part:
        views = [memoryview(bytearray(largest)) for _ in range(buffers)]

        def part() -> None:
            with (data.path / shard.tar).open("rb", buffering=0) as file:
                for number, extent in enumerate(index.extents):
                    view = views[number % buffers][: extent.size_bytes]
                    os.preadv(file.fileno(), [view], extent.offset)
                    if check and xxhash.xxh3_64_intdigest(view) != extent.xxh3:
                        raise RuntimeError(f"{extent.key} differs")

        return part

    def read_index() -> None:
        Index.read(data.path, shard, data.plan.identity)

    def read() -> None:
        scratch = RecordBuffer()
        views = [memoryview(bytearray(RECORD * sample_bytes)) for _ in range(RING_RECORDS)]
        with ShardReader(data.path, shard, data.plan) as opened:
            for number, layout in enumerate(opened.layouts):
                opened.read(number, [views[number % RING_RECORDS][: layout.pixels_bytes]], scratch)

    def stream() -> None:
        with Stream(data, "train", [0], 512) as batches:
            for _ in batches:
                pass

    return {
        "stream: preadv into one record's buffer": bare(1, check=False),
        "stream: preadv and xxh3-64": bare(1, check=True),
        f"stream: preadv and xxh3-64 into {RING_RECORDS} buffers": bare(RING_RECORDS, check=True),
        "stream: reading the index": read_index,
        "stream: index, and records scattered and checked": read,
        "stream: all of that in a thread, batches of 512": stream,
    }


if __name__ == "__main__":
    run_command(main)
