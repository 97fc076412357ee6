"""The shuffled order of records: each record once, and a different order for each seed and epoch."""

import copy
import json
import os
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prebake
from prebake.errors import DataError
from prebake.format.columns import standard_columns
from prebake.format.manifest import MAX_SEED
from prebake.format.record import Layout
from prebake.loader.order import record_order
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream
from prebake.precompute.images import SourceData
from prebake.train.recipes import recipe_for
from prebake.train.state import Settings
from prebake.train.trainer import Trainer
from tests.helpers.commands import ON_CPU, Command, Ended, log_of, summary_of, the_run

RECORD = Layout(128, standard_columns((8, 8, 1), "uint8"))
SEEDS = st.integers(0, MAX_SEED)
EPOCHS = st.integers(0, 10_000)
SHARDS = st.lists(st.integers(1, 70), min_size=1, max_size=30)


def listed(shuffle_seed: int, epoch: int, shards: list[int]) -> list[tuple[int, int]]:
    """Return (shard, record) in reading order."""
    return [(shard, int(record)) for shard, records in record_order(shuffle_seed, epoch, shards) for record in records]


@given(SEEDS, EPOCHS, SHARDS)
def test_every_record_comes_once_and_shards_stay_together(shuffle_seed: int, epoch: int, shards: list[int]) -> None:
    ordered = record_order(shuffle_seed, epoch, shards)
    assert sorted(shard for shard, _ in ordered) == list(range(len(shards)))
    for shard, records in ordered:
        assert sorted(records.tolist()) == list(range(shards[shard]))


@given(SEEDS, EPOCHS, SHARDS)
def test_the_order_depends_only_on_its_arguments(shuffle_seed: int, epoch: int, shards: list[int]) -> None:
    first = listed(shuffle_seed, epoch, shards)
    np.random.default_rng().random(3)
    listed(shuffle_seed, epoch + 1, shards)
    assert listed(shuffle_seed, epoch, shards) == first


def test_each_seed_and_epoch_has_a_different_order() -> None:
    # Not a function of their sum either.
    found = {tuple(listed(seed, epoch, [200, 190])) for seed in range(8) for epoch in range(8)}
    assert len(found) == 64
    assert tuple(listed(0, 0, [200, 190])) != tuple(sorted(listed(0, 0, [200, 190])))


@pytest.mark.parametrize("shards", [[1] * 5, [5]])
def test_every_position_is_equally_likely_for_every_record(shards: list[int]) -> None:
    places = np.zeros((5, 5), np.int64)
    for seed in range(2000):
        turns = [shard + record for shard, record in listed(seed, seed % 7, shards)]
        places[range(5), turns] += 1
    # 400 are expected, with a deviation of 18.
    assert abs(places - 400).max() < 90


def test_the_order_is_pinned_since_runs_are_to_be_repeated() -> None:
    assert listed(5, 2, [3, 4]) == [(1, 0), (1, 2), (1, 3), (1, 1), (0, 2), (0, 1), (0, 0)]


@pytest.fixture
def three_shards(digits: SourceData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardSet:
    """Return two epochs of 700 digits in three shards of two records. The last record is shorter."""
    monkeypatch.setattr("prebake.format.shard.SHARD_BYTES", 2 * RECORD.size_bytes)
    train = digits.splits["train"]
    out = tmp_path / "digits"
    prebake.bake(
        train.images_NHWC[:700], train.labels_N[:700], name="digits", recipe="digits", dtype="uint8", epochs=2, out=out
    )
    data = ShardSet(out)
    assert [len(shard.layouts) for shard in data.plan.shards("train", 0)] == [2, 2, 2]
    return data


Sample = tuple[bytes, int]


def records_of(data: ShardSet, epoch: int) -> list[list[Sample]]:
    """Return the samples of each record of an epoch, in baked order."""
    return [
        [(image.tobytes(), int(label)) for image, label in zip(record.images_NHWC, record.labels_N, strict=True)]
        for record in data.records("train", epoch)
    ]


def streamed(
    data: ShardSet, epochs: list[int], batch_size: int, shuffle_seed: int, first_epoch: int = 0, start: int = 0
) -> list[Sample]:
    """Return the samples of some epochs as a stream yields them."""
    with Stream(
        data, "train", epochs, batch_size, start=start, shuffle_seed=shuffle_seed, first_epoch=first_epoch
    ) as stream:
        return [
            (image.numpy().tobytes(), int(label))
            for images, labels in stream
            for image, label in zip(images, labels, strict=True)
        ]


@pytest.mark.parametrize("batch_size", [1, 50, 128, 300, 1000])
def test_a_stream_reads_that_order_for_every_batch_size(three_shards: ShardSet, batch_size: int) -> None:
    wanted: list[Sample] = []
    for epoch, view in enumerate([0, 1, 0], 7):
        records = records_of(three_shards, view)
        for shard, record in listed(3, epoch, [2, 2, 2]):
            wanted += records[2 * shard + record]
    found = streamed(three_shards, [0, 1, 0], batch_size, shuffle_seed=3, first_epoch=7)
    assert found == wanted
    # All samples, each once an epoch; and replayed epochs have orders of their own.
    assert Counter(found[:700]) == Counter(chain(*records_of(three_shards, 0))) == Counter(found[1400:])
    assert found[:700] != found[1400:]


def test_the_order_does_not_depend_on_the_first_epoch(three_shards: ShardSet) -> None:
    whole = streamed(three_shards, [0, 1], 64, shuffle_seed=3)
    assert streamed(three_shards, [1], 64, shuffle_seed=3, first_epoch=1) == whole[700:]


@pytest.mark.parametrize("start", [0, 1, 128, 300, 512, 699, 700])
def test_a_stream_starts_inside_an_epoch_of_that_order(three_shards: ShardSet, start: int) -> None:
    whole = streamed(three_shards, [0, 1], 64, shuffle_seed=3)
    assert streamed(three_shards, [0, 1], 64, shuffle_seed=3, start=start) == whole[start:]


def test_the_last_record_may_stand_anywhere(three_shards: ShardSet) -> None:
    last = records_of(three_shards, 0)[-1]
    places = {streamed(three_shards, [0], 64, shuffle_seed=seed).index(last[0]) for seed in range(12)}
    assert len(last) == 60
    assert len(places) > 2


def test_no_sample_of_a_damaged_record_is_yielded_in_any_order(three_shards: ShardSet) -> None:
    records = records_of(three_shards, 0)
    record = json.loads((three_shards.path / "train-e000-001.json").read_text())["records"][0]
    with (three_shards.path / "train-e000-001.tar").open("r+b") as file:
        file.seek(record["offset"] + 3000)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    for seed in range(3):
        found: list[bytes] = []
        with (
            Stream(three_shards, "train", [0], 10, shuffle_seed=seed) as stream,
            pytest.raises(DataError, match="bytes differ from the index"),
        ):
            found.extend(image.numpy().tobytes() for images, _ in stream for image in images)
        before = listed(seed, 0, [2, 2, 2]).index((1, 0))
        wanted = [
            image for shard, number in listed(seed, 0, [2, 2, 2])[:before] for image, _ in records[2 * shard + number]
        ]
        assert found == wanted[: len(wanted) // 10 * 10]


def test_shuffle_seed_is_a_setting_and_changes_the_first_batch(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, command: Command
) -> None:
    options = ("--shards", shards / "digits", "--epochs", 1, "--out", tmp_path, *ON_CPU)
    ended = command(*options, "--shuffle-seed", 1)
    assert ended.code == 0, ended.err
    plain, ordered = the_run(finished[1]), the_run(tmp_path)
    assert log_of(ordered)[0]["settings"]["shuffle_seed"] == 1
    # Not there where it was not asked for: names of older runs stay as they are.
    assert "shuffle_seed" not in log_of(plain)[0]["settings"]
    # The same weights, another batch.
    assert summary_of(plain)["first_loss"] != summary_of(ordered)["first_loss"]


def test_a_resumed_run_keeps_the_order_of_its_epochs(tiny: ShardSet) -> None:
    seed = 1
    assert listed(seed, 0, [2]) != listed(seed, 1, [2])  # else the epoch's number would not matter
    settings = Settings(recipe_for("digits", epochs=2), 0, "cpu", "fp32", shuffle_seed=seed)
    whole, second = Trainer(tiny, settings), Trainer(tiny, settings)
    run = whole.run()
    next(run)
    saved = copy.deepcopy(whole.save())
    (wanted,) = run
    second.restore(saved)
    (found,) = second.run()
    assert (found.train_loss, found.held_out_loss) == (wanted.train_loss, wanted.held_out_loss)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_an_order_seed_out_of_range_is_a_usage_error(seed: int, shards: Path, tmp_path: Path, command: Command) -> None:
    ended = command("--shards", shards / "digits", "--out", tmp_path / "runs", "--shuffle-seed", seed)
    assert ended.code == 2
    assert f"--shuffle-seed: expected 0 to 2^63 - 1, found {seed}" in ended.err
