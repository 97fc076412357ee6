"""Attacks by what a manifest promises, under checksums that fit: each asks for much time, memory or a terminal."""

import os
from collections.abc import Sequence
from pathlib import Path

from prebake.format.index import Index
from prebake.loader.shard_set import ShardSet
from tests.attacks.hostile import reseal_manifest


def promise(directory: Path, epochs: Sequence[Sequence[int]], channels: int = 1) -> None:
    """Let the manifest speak of these epochs of training."""

    def change(content: dict[str, object]) -> None:
        source, splits, columns = content["source"], content["splits"], content["columns"]
        assert isinstance(source, dict)
        assert isinstance(splits, dict)
        assert isinstance(columns, list)
        source.update(mean=[0.5] * channels, std=[0.5] * channels)
        splits.update(train=[list(epoch) for epoch in epochs])
        columns[0]["shape"] = list(epochs[0][1:])

    reseal_manifest(directory, change)


def most_samples(directory: Path) -> None:
    """One epoch of 2^32 - 1 images of one pixel."""
    promise(directory, [(2**32 - 1, 1, 1, 1)])


def most_shards(directory: Path) -> None:
    """One epoch of 2^32 - 1 images of 2^30 pixels: a shard each."""
    promise(directory, [(2**32 - 1, 2**15, 2**15, 1)])


def many_epochs(directory: Path) -> None:
    """50,000 epochs."""
    promise(directory, [(1, 1, 1, 1)] * 50_000)


def many_sizes(directory: Path) -> None:
    """8,192 epochs, each of another size, which may be read by."""
    promise(directory, [(150, 1 + i % 90, 1 + i // 90, 1) for i in range(8192)])


def many_channels(directory: Path) -> None:
    """Images of 100,000 channels, for which tables would be made."""
    promise(directory, [(150, 1, 1, 100_000)], 100_000)


def many_classes(directory: Path) -> None:
    """400,000 classes, for which a net would have outputs."""
    reseal_manifest(directory, lambda content: content["source"].update(classes=[""] * 400_000))


def no_class(directory: Path) -> None:
    """No class at all."""
    reseal_manifest(directory, lambda content: content["source"].update(classes=[]))


def huge_record(directory: Path) -> None:
    """An image of 2^30 pixels whose index fits, and whose archive is small."""
    promise(directory, [(1, 2**15, 2**15, 1)])
    _plan_index(directory)


def huge_records_index(directory: Path) -> None:
    """Records without number whose index fits, and whose archive is small."""
    promise(directory, [(2**20, 1, 1, 1)])
    _plan_index(directory)


def _plan_index(directory: Path) -> None:
    data = ShardSet(directory)
    shard = data.plan.shards("train", 0)[0]
    index = Index.planned(shard, data.plan.identity, "0" * 32, [0] * len(shard.layouts))
    (directory / shard.index).write_bytes(index.to_bytes())


def terminal(directory: Path) -> None:
    """Strings that write to the terminal's title and clear its screen."""
    evil = "\x1b]0;owned\x07\x1b[2J\r\u202e\x00"

    def change(content: dict[str, object]) -> None:
        source = content["source"]
        assert isinstance(source, dict)
        source.update(classes=[evil] * 4, recipe=evil, sha256={evil: evil})
        content["augmentation"] = {"name": evil, evil: evil, "flip": [evil]}

    reseal_manifest(directory, change)
    for name in os.listdir(directory):  # noqa: PTH208 - names alone
        if name.endswith(".json") and name != "manifest.json":
            (directory / name).unlink()


def tiny_std(directory: Path) -> None:
    """A std so small that no normalized pixel is finite."""
    reseal_manifest(directory, lambda content: content["source"].update(std=[5e-324]))


def path_as_name(directory: Path) -> None:
    """A name that leads out of the directory of runs."""
    reseal_manifest(directory, lambda content: content["source"].update(name="../../owned"))


def url_as_name(directory: Path) -> None:
    """A name that is a command to webdataset."""
    reseal_manifest(directory, lambda content: content["source"].update(name="pipe:touch owned"))
