"""python -m benchmarks.stream: how fast do batches come out of shards, the page cache warm?

CIFAR-10 in uint8, checksums on, one reading thread. Beside it: the bare loop of `preadv` and
xxh3-64 over the same extents (the limit of what checks its bytes), webdataset on the same shards and on
a tar with a sample a record, and torch's DataLoader over tensors in memory.
"""

import argparse
import io
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import webdataset
import xxhash

from benchmarks.measure import interleaved, machine, report
from precompute.bake import bake
from precompute.sources import Images, load
from shards import ShardSet
from train.stream import Stream

SLOW_IMAGES = 10_000


def main() -> None:
    """Bake, measure and print."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    options.add_argument("--data-dir", type=Path, default=Path("data"), help="torchvision root; default data")
    options.add_argument("--repetitions", type=int, default=5, help="rounds that count; default 5")
    options.add_argument("--json", action="store_true", help="print JSON")
    arguments = options.parse_args()
    about = machine("numpy", "torch", "webdataset", "xxhash")
    train = load("cifar10", arguments.data_dir).splits["train"]
    with tempfile.TemporaryDirectory() as directory:
        bake(train.images_NHWC, train.labels_N, name="cifar10", epochs=1, encoding="uint8", out=directory)
        data = ShardSet(directory)
        samples = Path(directory) / "samples.tar"
        _write_samples(samples, train)
        contestants: dict[str, Callable[[], int]] = {
            "prebake, batches of 512": lambda: _stream(data, 512),
            "prebake, batches of 500": lambda: _stream(data, 500),
            "bare preadv and xxh3-64": lambda: _bare(data, check=True),
            "bare preadv": lambda: _bare(data, check=False),
            "ShardSet.batches, 512": lambda: sum(len(y) for _, y in data.batches("train", batch_size=512)),
            "webdataset, a record of ours": lambda: sum(len(y) for _, y in data.webdataset("train")),
            "webdataset, a sample a record": lambda: _webdataset_samples(samples),
            "torch DataLoader over tensors, 0 workers": _dataloader(train),
        }
        rates = interleaved(contestants, arguments.repetitions)
    skipped = {"FFCV": "not measured yet", "tf.data": "not measured yet"}
    report("stream", rates, "bare preadv and xxh3-64", about, as_json=arguments.json, skipped=skipped)


def _stream(data: ShardSet, batch_size: int) -> int:
    with Stream(data, "train", [0] * 4, batch_size) as stream:  # one thread and one ring serve a whole run
        return sum(len(labels) for _, labels in stream)


def _bare(data: ShardSet, *, check: bool) -> int:
    buffer = memoryview(bytearray(8 << 20))
    count = 0
    for shard in data.open_shards("train"):
        with shard:
            for extent in shard.index.extents:
                view = buffer[: extent.size_bytes]
                os.preadv(shard.descriptor, [view], extent.offset)
                if check and xxhash.xxh3_64_intdigest(view) != extent.xxh3:
                    raise RuntimeError(f"{shard.path}: {extent.key} differs")
                count += extent.samples
    return count


def _write_samples(path: Path, train: Images) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(SLOW_IMAGES):
            for name, array in (("x", train.images_NHWC[number]), ("y", train.labels_N[number])):
                data = io.BytesIO()
                np.save(data, array)
                info = tarfile.TarInfo(f"{number:06d}.{name}.npy")
                info.size = data.tell()
                data.seek(0)
                tar.addfile(info, data)


def _webdataset_samples(path: Path) -> int:
    pipeline = webdataset.WebDataset(str(path), shardshuffle=False).decode().to_tuple("x.npy", "y.npy").batched(512)
    return sum(len(labels) for _, labels in pipeline)


def _dataloader(train: Images) -> Callable[[], int]:
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(train.images_NHWC), torch.from_numpy(train.labels_N))
    loader = torch.utils.data.DataLoader(dataset, batch_size=512, shuffle=True)
    return lambda: sum(len(labels) for _, labels in loader)


if __name__ == "__main__":
    main()
