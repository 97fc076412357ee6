"""`Stream` yields the same batches as `ShardSet.batches`, from reused memory, and no damaged sample."""

import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import prebake
from prebake.errors import DataError, UsageError
from prebake.format.columns import standard_columns
from prebake.format.record import Layout
from prebake.loader.ring_buffer import ring_slots
from prebake.loader.shard_reader import RecordBuffer, ShardReader
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream
from prebake.precompute.images import SourceData

# Batch size of each process, number of processes, first sample.
SHARED = [
    (batch_size // count, count, start)
    for batch_size in (4, 36, 128, 256, 512, 1348, 2000)
    for count in (2, 4)
    for start in (0, 1, 36, 127, 128, 700, 1349, 1350)
]
BATCH_SIZES = [1, 2, 7, 64, 100, 127, 128, 129, 300, 512, 1350, 2000]


def take(stream: Stream, found: list[tuple[Tensor, ...]]) -> None:
    """Copy the batches of a stream up to its end or its error."""
    for images, labels in stream:
        found.append((images.clone(), labels.clone()))


def streamed(stream: Stream) -> list[tuple[Tensor, ...]]:
    """Copy all batches of a stream."""
    found: list[tuple[Tensor, ...]] = []
    take(stream, found)
    return found


def expected(
    data: ShardSet, epochs: list[int], batch_size: int, drop_last: bool = False, split: str = "train"
) -> list[tuple[Tensor, ...]]:
    """Read the same batches with `ShardSet.batches`."""
    return [
        (torch.from_numpy(images), torch.from_numpy(labels))
        for epoch in epochs
        for images, labels in data.batches(split, epoch, batch_size=batch_size, drop_last=drop_last)
    ]


def assert_same(found: list[tuple[Tensor, ...]], wanted: list[tuple[Tensor, ...]]) -> None:
    """Assert that batches are equal bit by bit."""
    assert [len(labels) for _, labels in found] == [len(labels) for _, labels in wanted]
    for (images, labels), (wanted_images, wanted_labels) in zip(found, wanted, strict=True):
        assert images.dtype == wanted_images.dtype
        assert torch.equal(images, wanted_images)
        assert torch.equal(labels, wanted_labels)


def readers() -> list[threading.Thread]:
    """Return the reader threads that are alive."""
    return [thread for thread in threading.enumerate() if thread.name == "prebake-reader"]


def open_files() -> int:
    """Return the number of open files of this process."""
    return len(list(Path("/dev/fd").iterdir()))


def records_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each later read appends the number of its record."""
    read: list[int] = []
    original = ShardReader.read

    def noting(self: ShardReader, number: int, *rest: Any) -> None:
        read.append(number)
        original(self, number, *rest)

    monkeypatch.setattr(ShardReader, "read", noting)
    return read


@pytest.fixture
def copied(baked: ShardSet, tmp_path: Path) -> ShardSet:
    """A copy of the baked digits that a test may damage."""
    return ShardSet(shutil.copytree(baked.path, tmp_path / "digits"))


@pytest.mark.parametrize(
    ("shape", "batch_size", "slots"),
    [
        ((32, 32, 3), 512, 5),
        ((32, 32, 3), 128, 11),
        ((8, 8, 1), 1, 1027),
        ((32, 32, 3), 10_000, 4),
        ((1024, 1024, 3), 8, 5),
        ((1024, 1024, 3), 1, 24),
        ((224, 224, 3), 4, 114),
    ],
)
def test_the_ring_holds_one_record_and_at_most_64_mb_more(
    shape: tuple[int, int, int], batch_size: int, slots: int
) -> None:
    assert ring_slots(shape, "uint8", batch_size) == slots


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_a_stream_equals_plain_reading_over_epochs_in_turn(baked: ShardSet, batch_size: int, drop_last: bool) -> None:
    epochs = [0, 1, 1, 0, 0]
    with Stream(baked, "train", epochs, batch_size, drop_last=drop_last) as stream:
        found = streamed(stream)
    assert_same(found, expected(baked, epochs, batch_size, drop_last))
    assert sum(len(labels) for _, labels in found) == 5 * (1350 // batch_size * batch_size if drop_last else 1350)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_stream_equals_plain_reading_of_the_held_out_splits(baked: ShardSet, split: str) -> None:
    with Stream(baked, split, [0], 100) as stream:
        assert_same(streamed(stream), expected(baked, [0], 100, split=split))


@pytest.mark.parametrize("batch_size", [50, 128, 300])
def test_batches_span_two_shards(
    digits: SourceData, tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Layout(128, standard_columns((8, 8, 1), "uint8")).size_bytes
    monkeypatch.setattr("prebake.format.shard.SHARD_BYTES", 2 * record)
    train = digits.splits["train"]
    out = tmp_path / "digits"
    prebake.bake(
        train.images_NHWC[:700], train.labels_N[:700], name="digits", recipe="digits", dtype="uint8", epochs=2, out=out
    )
    data = ShardSet(out)
    assert len(data.plan.shards("train", 0)) == 3
    with Stream(data, "train", [0, 1], batch_size) as stream:
        assert_same(streamed(stream), expected(data, [0, 1], batch_size))


@pytest.mark.parametrize("batch_size", [1, 7, 64, 128, 500])
def test_the_number_of_buffers_is_fixed_for_any_batch_count(baked: ShardSet, batch_size: int) -> None:
    def buffers(epochs: list[int]) -> tuple[set[int], set[int], int]:
        images_at, labels_at, batches = set(), set(), 0
        with Stream(baked, "train", epochs, batch_size) as stream:
            for images, labels in stream:
                images_at.add(images.data_ptr())
                labels_at.add(labels.data_ptr())
                batches += 1
        return images_at, labels_at, batches

    few_images, few_labels, few = buffers([0] * 4)
    many_images, many_labels, many = buffers([0, 1] * 20)
    assert many == 10 * few
    # What lasts for half a millisecond, and some to work ahead with.
    assert len(many_images) <= 1024 // batch_size + 5
    assert len(many_images) == len(few_images) == len(many_labels) == len(few_labels)


def test_a_batch_stays_unchanged_until_the_next_request(baked: ShardSet) -> None:
    epochs = [0, 1] * 10
    wanted = expected(baked, epochs, 128)
    with Stream(baked, "train", epochs, 128) as stream:
        for (images, labels), (wanted_images, wanted_labels) in zip(stream, wanted, strict=False):
            for _ in range(20):  # the reader runs ahead meanwhile
                assert torch.equal(images, wanted_images)
                assert torch.equal(labels, wanted_labels)


@pytest.mark.parametrize("part", ["header", "pixels", "labels", "padding"])
@pytest.mark.parametrize("batch_size", [1, 100, 128, 200, 512])
def test_no_sample_of_a_damaged_record_is_handed_out(copied: ShardSet, batch_size: int, part: str) -> None:
    record = json.loads((copied.path / "train-e001-000.json").read_text())["records"][3]
    layout = Layout(128, standard_columns((8, 8, 1), "float16"))
    within = {
        "header": 3,
        "pixels": layout.pixels_offset + 128,
        "labels": layout.offsets["labels"] + 8 * 127,
        "padding": layout.size_bytes - 1,
    }[part]
    wanted = expected(copied, [0, 1], batch_size)
    tar = copied.path / "train-e001-000.tar"
    with tar.open("r+b") as file:
        file.seek(record["offset"] + within)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    found: list[tuple[Tensor, ...]] = []
    with Stream(copied, "train", [0, 1], batch_size) as stream:
        with pytest.raises(DataError, match=r"bytes differ from the index .* expected, .* found") as caught:
            take(stream, found)
        assert str(tar) in str(caught.value)
        assert record["key"] in str(caught.value)
    # The damaged record holds the samples 384 to 511 of epoch 1.
    assert len(found) == -(-1350 // batch_size) + 384 // batch_size
    assert_same(found, wanted[: len(found)])


def test_a_truncated_shard_is_an_error_and_not_a_shorter_epoch(copied: ShardSet) -> None:
    tar = copied.path / "train-e000-000.tar"
    os.truncate(tar, tar.stat().st_size // 2)
    with (
        Stream(copied, "train", [0], 128) as stream,
        pytest.raises(DataError, match=f"{tar.name}: .* bytes expected, .* found: cut off"),
    ):
        list(stream)


def test_a_shard_truncated_while_it_is_read_is_an_error(copied: ShardSet) -> None:
    tar = copied.path / "train-e000-000.tar"
    (shard,) = copied.open_shards("train", 0)
    with shard:
        os.truncate(tar, tar.stat().st_size // 2)
        pixels = memoryview(bytearray(shard.layouts[-1].pixels_bytes))
        with pytest.raises(DataError, match="the file ended while it was read"):
            shard.read(len(shard.layouts) - 1, [pixels], RecordBuffer())


def test_a_missing_shard_is_named_after_the_epochs_before_it(copied: ShardSet) -> None:
    (copied.path / "train-e001-000.json").unlink()
    found: list[tuple[Tensor, ...]] = []
    with (
        Stream(copied, "train", [0, 1], 500) as stream,
        pytest.raises(DataError, match=r"train epoch 1 is not baked yet \(train-e001-000.tar missing\)"),
    ):
        take(stream, found)
    assert_same(found, expected(copied, [0], 500))


def test_a_shard_whose_index_alone_is_there_is_missing(copied: ShardSet) -> None:
    (copied.path / "train-e000-000.tar").unlink()
    with Stream(copied, "train", [0], 500) as stream, pytest.raises(DataError, match=r"train-e000-000.tar: missing"):
        next(iter(stream))


def _unused(_stream: Stream) -> None:
    pass


def _one_batch(stream: Stream) -> None:
    next(iter(stream))


def _all_batches(stream: Stream) -> None:
    for _ in stream:
        pass


@pytest.mark.parametrize("use", [_unused, _one_batch, _all_batches])
@pytest.mark.parametrize("batch_size", [1, 500])
def test_closing_ends_the_thread_and_closes_the_file(
    baked: ShardSet, use: Callable[[Stream], None], batch_size: int
) -> None:
    files = open_files()
    with Stream(baked, "train", [0, 1] * 5, batch_size) as stream:
        assert len(readers()) == 1
        use(stream)
    assert readers() == []
    assert open_files() == files
    stream.close()


def test_a_stream_outside_of_its_block_reads_nothing(baked: ShardSet) -> None:
    stream = Stream(baked, "train", [0], 64)
    with pytest.raises(UsageError, match="inside its `with` block"):
        next(iter(stream))
    assert readers() == []


def test_an_error_in_the_consumer_ends_the_thread_too(baked: ShardSet) -> None:
    def stumble() -> None:
        with Stream(baked, "train", [0, 1], 7) as stream:
            for _ in stream:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        stumble()
    assert readers() == []


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_under_1_is_refused(baked: ShardSet, batch_size: int) -> None:
    with pytest.raises(UsageError, match=f"expected at least 1, found {batch_size}"):
        Stream(baked, "train", [0], batch_size)
    assert readers() == []


def test_an_unknown_split_is_refused_with_a_list_of_those_there(baked: ShardSet) -> None:
    with pytest.raises(UsageError, match=r"no split named 'dev'; there are .*train"):
        Stream(baked, "dev", [0], 64)


def test_an_epoch_beyond_the_planned_ones_is_refused(baked: ShardSet) -> None:
    with pytest.raises(UsageError, match="train has epochs 0 to 1, found 2"):
        Stream(baked, "train", [2], 64)


def test_a_finished_stream_yields_nothing_more(baked: ShardSet) -> None:
    with Stream(baked, "test", [0], 100) as stream:
        assert len(list(stream)) == 3
        assert list(stream) == []
    assert list(stream) == []


def test_an_error_is_raised_again_at_the_next_call(copied: ShardSet) -> None:
    (copied.path / "train-e001-000.json").unlink()
    with Stream(copied, "train", [1], 64) as stream:
        for _ in range(2):
            with pytest.raises(DataError, match="not baked yet"):
                list(stream)


def test_leaving_a_loop_early_gives_its_batch_back(baked: ShardSet) -> None:
    with Stream(baked, "train", [0, 1, 0, 1], 64) as stream:
        for _ in range(20):  # more than the ring has slots
            for _, labels in stream:
                assert len(labels)
                break


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(
    ("batch_size", "world_size", "start"),
    [(5, 4, 0), (256, 2, 100), (50, 3, 7), *(pytest.param(*case, marks=pytest.mark.slow) for case in SHARED)],
)
def test_ranks_together_read_the_batches_of_one_process(
    baked: ShardSet, batch_size: int, world_size: int, start: int, drop_last: bool
) -> None:
    def read(rank: int, world_size: int, batch_size: int) -> list[tuple[Tensor, ...]]:
        with Stream(
            baked,
            "train",
            [0, 1],
            batch_size,
            start=start,
            drop_last=drop_last,
            shuffle_seed=3,
            rank=rank,
            world_size=world_size,
        ) as stream:
            return streamed(stream)

    parts = [iter(read(rank, world_size, batch_size)) for rank in range(world_size)]
    for images, labels in read(0, 1, batch_size * world_size):
        ends = [len(labels) * rank // world_size for rank in range(world_size + 1)]
        wanted: list[tuple[Tensor, ...]] = [(images[a:b], labels[a:b]) for a, b in itertools.pairwise(ends) if a < b]
        found = [next(part) for part, a, b in zip(parts, ends, ends[1:], strict=False) if a < b]
        assert_same(found, wanted)
    assert not any(list(part) for part in parts)


def test_a_rank_reads_only_the_records_it_needs(baked: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    read = records_read(monkeypatch)
    with Stream(baked, "train", [0], 256, rank=1, world_size=4) as stream:
        assert [len(labels) for _, labels in streamed(stream)] == [256, 82]
    assert read == [2, 3, 8, 9]


def test_drop_last_leaves_the_dropped_records_unread(baked: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    read = records_read(monkeypatch)
    with Stream(baked, "train", [0], 640, drop_last=True) as stream:
        assert len(streamed(stream)) == 2
    assert read == list(range(10))


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_out_of_range_is_refused(baked: ShardSet, rank: int) -> None:
    with pytest.raises(UsageError, match=f"rank: expected 0 to 1, found {rank}"):
        Stream(baked, "train", [0], 10, rank=rank, world_size=2)
