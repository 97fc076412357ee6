"""python -m benchmarks.stream: how fast do batches come out of shards?

CIFAR-10 in uint8, the page cache warm, checksums on, one reading thread. Beside it: the bare loop of `preadv`
and xxh3-64 over the same extents (the limit of what checks its bytes), webdataset on the same shards and on
a tar with a sample a record, torch's DataLoader over tensors in memory, and FFCV and tf.data, each from an
environment of its own (`--peer`). Then two epochs of float16 from the disk, the page cache cold, beside dd.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import webdataset
import xxhash

from benchmarks import peers
from benchmarks.measure import Fact, Peer, compared, held_to, interleaved, machine, peer_option, report
from prebake.cli.run import run_command
from prebake.errors import MachineError
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream
from prebake.precompute.bake import bake
from prebake.precompute.images import Images
from prebake.precompute.sources import load

SLOW_IMAGES = 10_000
RUN_EPOCHS = 25  # of one call: a run has one thread and one ring for all of them
PEERS = {"ffcv": "FFCV", "tfdata": "tf.data"}
SCRIPTS = Path(peers.__file__).parent
RING_RECORDS = 16  # four batches of 512 in records of 128
# 614 MB, some 0.3 s at 2 GB/s: one epoch in uint8 would be over before starting dd, once a shard, is forgotten.
COLD_EPOCHS = [0, 1]
GOALS = (
    ("prebake, batches of 512", "bare preadv and xxh3-64", "at least 0.75"),
    ("prebake, batches of 500", "bare preadv and xxh3-64", "at least 0.6"),
    ("prebake, batches of 512", "FFCV", "at least 1"),
    ("prebake, batches of 512", "tf.data", "at least 7"),
    ("prebake, batches of 512", "webdataset, a record of ours", "at least 3"),
    ("prebake, batches of 512", "webdataset, a sample a record", "at least 200"),
)


def main() -> None:
    """Bake, measure and print."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    options.add_argument("--data-dir", type=Path, default=Path("data"), help="torchvision root; default data")
    options.add_argument("--work-dir", type=Path, help="on the disk to read from; default the system's temporary one")
    options.add_argument(
        "--peer",
        action="append",
        default=[],
        type=peer_option(PEERS),
        metavar="NAME=PYTHON",
        help=f"an interpreter that has one of {', '.join(PEERS)}; may be given once for each",
    )
    options.add_argument("--repetitions", type=int, default=5, help="rounds that count; default 5")
    options.add_argument("--json", action="store_true", help="print JSON")
    arguments = options.parse_args()
    about = machine("numpy", "torch", "webdataset", "xxhash")
    train = load("cifar10", arguments.data_dir).splits["train"]
    with tempfile.TemporaryDirectory(dir=arguments.work_dir) as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        started, skipped = start_peers(dict(arguments.peer), train, directory, stack)
        about["packages"] |= {name: peer.version for name, peer in started.items()}
        contestants: dict[str, Callable[[], int]] = {**_contestants(train, directory), **started}
        rates = interleaved(contestants, arguments.repetitions)
        facts = held_to(GOALS, rates)
        facts["cold cache, batches of 512 / dd"] = _cold(train, directory / "cold", arguments.repetitions)
    report("stream", rates, "bare preadv and xxh3-64", about, as_json=arguments.json, skipped=skipped, facts=facts)


def start_peers(
    interpreters: Mapping[str, Path], train: Images, directory: Path, stack: contextlib.ExitStack
) -> tuple[dict[str, Peer], dict[str, str]]:
    """Start the peers that have an interpreter; return them, and why the others are skipped."""
    if interpreters:
        np.save(directory / "images.npy", train.images_NHWC)
        np.save(directory / "labels.npy", train.labels_N)
    started, skipped = {}, {}
    for key, title in PEERS.items():
        if key not in interpreters:
            skipped[title] = f"needs --peer {key}=PYTHON"
            continue
        try:
            started[title] = stack.enter_context(Peer(interpreters[key], SCRIPTS / f"{key}_stream.py", directory))
        except MachineError as error:
            skipped[title] = str(error)
    return started, skipped


def _contestants(train: Images, directory: Path) -> dict[str, Callable[[], int]]:
    out, samples = directory / "warm", directory / "samples.tar"
    bake(train.images_NHWC, train.labels_N, name="cifar10", epochs=1, dtype="uint8", out=out)
    _write_samples(samples, train)
    data = ShardSet(out)
    return {
        "prebake, batches of 512": lambda: stream_through(data, [0] * RUN_EPOCHS, 512),
        "prebake, batches of 500": lambda: stream_through(data, [0] * RUN_EPOCHS, 500),
        "bare preadv and xxh3-64": bare(data, check=True, records=1),
        f"bare preadv and xxh3-64, into a ring of {RING_RECORDS // 4} x 512": bare(
            data, check=True, records=RING_RECORDS
        ),
        "bare preadv": bare(data, check=False, records=1),
        "ShardSet.batches, 512": lambda: sum(len(y) for _, y in data.batches("train", batch_size=512)),
        "webdataset, a record of ours": lambda: _webdataset_records(data),
        "webdataset, a sample a record": lambda: _webdataset_samples(samples),
        "torch DataLoader over tensors, 0 workers": _dataloader(train),
    }


def stream_through(data: ShardSet, epochs: Sequence[int], batch_size: int) -> int:
    """Play epochs; return the number of images. More than one, since a run has one thread and ring for all of them."""
    with Stream(data, "train", epochs, batch_size) as stream:
        return sum(len(labels) for _, labels in stream)


def bare(data: ShardSet, *, check: bool, records: int) -> Callable[[], int]:
    """Return a loop over an epoch's extents that knows beforehand what lies where and hashes to what.

    Args:
        data: the shard set.
        check: hash what was read, too.
        records: room for how many, filled in turn. One stays in the second-level cache; the staging memory of
            batches can't.
    """
    files = []
    for shard in data.open_shards("train"):
        shard.close()
        extents = shard.index.extents
        room = [memoryview(bytearray(max(extent.size_bytes for extent in extents))) for _ in range(records)]
        steps = [(e.offset, room[i % records][: e.size_bytes], e.xxh3) for i, e in enumerate(extents)]
        files.append((shard.path, steps))

    def read() -> int:
        for path, steps in files:
            with path.open("rb", buffering=0) as file:
                descriptor = file.fileno()
                for offset, view, xxh3 in steps:
                    read = os.preadv(descriptor, [view], offset)
                    if read != len(view) or (check and xxhash.xxh3_64_intdigest(view) != xxh3):
                        raise RuntimeError(f"{path}: the record at {offset} differs")
        return data.samples("train")

    return read


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


def _webdataset_records(data: ShardSet) -> int:
    urls = [str(data.path / shard.tar) for shard in data.plan.shards("train", 0)]
    pipeline = webdataset.WebDataset(urls, shardshuffle=False).decode().to_tuple("images.npy", "labels.npy")
    return sum(len(labels) for _, labels in pipeline)


def _webdataset_samples(path: Path) -> int:
    pipeline = webdataset.WebDataset(str(path), shardshuffle=False).decode().to_tuple("x.npy", "y.npy").batched(512)
    return sum(len(labels) for _, labels in pipeline)


def _dataloader(train: Images) -> Callable[[], int]:
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(train.images_NHWC), torch.from_numpy(train.labels_N))
    loader = torch.utils.data.DataLoader(dataset, batch_size=512, shuffle=True)
    return lambda: sum(len(labels) for _, labels in loader)


def _cold(train: Images, directory: Path, repetitions: int) -> Fact:
    goal = "at least 0.9 of dd's bytes/s"
    if sys.platform != "linux":
        return Fact(goal, "skipped: needs Linux, which drops a file's pages when asked to")
    bake(train.images_NHWC, train.labels_N, name="cifar10", epochs=len(COLD_EPOCHS), out=directory)
    data = ShardSet(directory)
    shards = [directory / shard.tar for shard in data.plan.shards("train")]
    megabytes = sum(path.stat().st_size for path in shards) // 10**6
    forget(shards)
    if any(in_memory(path) for path in shards):
        return Fact(goal, "skipped: the files stay in memory; name a --work-dir on a disk")

    def ours() -> int:
        stream_through(data, COLD_EPOCHS, 512)
        return megabytes

    def dd() -> int:
        for path in shards:
            subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=1M"], stderr=subprocess.DEVNULL, check=True)  # noqa: S607 - dd on the PATH
        return megabytes

    rates = interleaved({"prebake": ours, "dd": dd}, repetitions, unit="MB", prepare=lambda: forget(shards))
    return compared(goal, rates, "MB/s")


def forget(paths: Sequence[Path]) -> None:
    """Drop the files' pages from the page cache, which drops only what has reached the disk."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_memory(path: Path) -> bool:
    """Say whether the middle of a file can be read without waiting for a disk."""
    with path.open("rb", buffering=0) as file:
        try:
            os.preadv(file.fileno(), [bytearray(1)], path.stat().st_size // 2, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError:  # a file system without a disk below it does not know the question
            return True
    return True


if __name__ == "__main__":
    run_command(main)
