"""A stream that starts in the middle of an epoch: the rest of the undisturbed one, and no byte of what was consumed."""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import prebake
from prebake.errors import DataError, UsageError
from prebake.format.columns import standard_columns
from prebake.format.record import Layout
from prebake.loader.order import reading_order
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream
from prebake.precompute.images import SourceData

Record = Callable[[str, object], None]

RECORD = Layout(128, standard_columns((8, 8, 1), "uint8"))


@pytest.fixture(scope="module")
def three(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Two epochs of 700 digits: six records in three shards each; read only."""
    train, out = digits.splits["train"], tmp_path_factory.mktemp("three") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prebake.format.shard.SHARD_BYTES", 2 * RECORD.size_bytes)
        prebake.bake(
            train.images_NHWC[:700],
            train.labels_N[:700],
            name="digits",
            recipe="digits",
            dtype="uint8",
            epochs=2,
            out=out,
        )
    return ShardSet(out)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the plan as it was baked."""
    monkeypatch.setattr("prebake.format.shard.SHARD_BYTES", 2 * RECORD.size_bytes)


def streamed(data: ShardSet, start: int, batch_size: int, drop_last: bool) -> list[tuple[Tensor, Tensor]]:
    """Copy what a stream of both epochs hands out."""
    with Stream(data, "train", [0, 1], batch_size, start=start, drop_last=drop_last) as stream:
        return [(images.clone(), labels.clone()) for images, labels in stream]


def assert_rest(data: ShardSet, starts: Iterable[int], batch_size: int, drop_last: bool) -> int:
    """Hold streams that start there against what plain reading gives; return how many there were."""
    wholes = [next(data.batches("train", epoch, batch_size=700)) for epoch in (0, 1)]
    count = 0
    for start in starts:
        wanted = []
        for (images, labels), first in zip(wholes, (start, 0), strict=True):
            for at in range(first, 700, batch_size):
                if not drop_last or at + batch_size <= 700:
                    wanted.append((images[at : at + batch_size], labels[at : at + batch_size]))
        found = streamed(data, start, batch_size, drop_last)
        assert len(found) == len(wanted)
        for (found_images, found_labels), (images, labels) in zip(found, wanted, strict=True):
            assert np.array_equal(found_images.numpy(), images)
            assert np.array_equal(found_labels.numpy(), labels)
        count += 1
    return count


SAMPLE = [0, 1, 64, 127, 128, 129, 255, 256, 257, 300, 511, 512, 639, 640, 641, 699, 700]


@pytest.mark.parametrize(("batch_size", "drop_last"), [(1, False), (64, True), (300, False), (701, True)])
def test_a_stream_started_at_a_sample_yields_the_same_rest(
    three: ShardSet, batch_size: int, drop_last: bool, record_property: Record
) -> None:
    assert len(three.plan.shards("train", 0)) == 3
    record_property("cases", assert_rest(three, SAMPLE, batch_size, drop_last))


@pytest.mark.slow
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 128, 129, 300, 700])
def test_a_stream_started_at_any_sample_yields_the_same_rest(
    three: ShardSet, batch_size: int, drop_last: bool, record_property: Record
) -> None:
    record_property("cases", assert_rest(three, range(701), batch_size, drop_last))


@pytest.mark.parametrize(
    ("start", "records", "shards"), [(0, 6, 3), (127, 6, 3), (128, 5, 3), (512, 2, 1), (700, 0, 0)]
)
def test_consumed_records_are_neither_opened_nor_read(
    three: ShardSet, monkeypatch: pytest.MonkeyPatch, start: int, records: int, shards: int
) -> None:
    read: list[int] = []
    opened: list[Path] = []
    preadv, open_file = os.preadv, os.open

    def counted(descriptor: int, buffers: Any, offset: int) -> int:
        read.append(offset)
        return preadv(descriptor, buffers, offset)

    def noted(path: Any, *rest: Any) -> int:
        opened.append(Path(path))
        return open_file(path, *rest)

    monkeypatch.setattr(os, "preadv", counted)
    monkeypatch.setattr(os, "open", noted)
    with Stream(three, "train", [0], 64, start=start) as stream:
        list(stream)
    assert len(read) == records
    assert len([path for path in opened if path.suffix == ".tar"]) == shards


def test_a_record_that_is_half_consumed_is_checked_whole(three: ShardSet, tmp_path: Path) -> None:
    data = ShardSet(shutil.copytree(three.path, tmp_path / "digits"))
    tar = data.path / "train-e000-000.tar"
    content = bytearray(tar.read_bytes())
    content[1000] ^= 1  # a pixel of one of the first samples
    tar.write_bytes(content)
    with pytest.raises(DataError, match="bytes differ from the index"):
        streamed(data, 100, 10, False)
    assert len(streamed(data, 128, 572, False)) == 3


@pytest.mark.parametrize("start", [-1, 701])
def test_a_start_outside_of_the_epoch_is_refused(three: ShardSet, start: int) -> None:
    with pytest.raises(UsageError, match=f"start: expected 0 to 700, found {start}"):
        Stream(three, "train", [0, 1], 64, start=start)


def test_source_indices_are_those_of_the_samples_between(three: ShardSet) -> None:
    plain = np.concatenate([record.index_N.copy() for record in three.records("train", 1)])
    for start, stop in ((0, 700), (0, 1), (127, 129), (128, 256), (250, 650), (699, 700)):
        found = three.source_indices("train", 1, start, stop, reading_order(three, "train", 1, None, 1))
        assert found.dtype == np.uint32
        assert np.array_equal(found, plain[start:stop])
    assert sorted(plain.tolist()) == list(range(700))
