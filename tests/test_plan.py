"""The plan: its manifest, its identity, and how it deals samples to shards."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prebake.errors import DataError, UsageError
from prebake.format.columns import IMAGE_DTYPES, Column
from prebake.format.document import serialize
from prebake.format.manifest import MANIFEST, Epoch, Plan, Source, differences
from prebake.format.record import RECORD_BYTES

SOURCE = Source("some", ("cat", "dog"), (0.25, 0.5), (0.125, 1.0), {"train": "aa", "test": "bb"}, "default")
PLAN = Plan(
    source=SOURCE,
    augmentation={"name": "standard", "pad": 4, "flip": "random"},
    dtype="float16",
    seed=3,
    splits={"train": (Epoch(1000, (4, 5, 2)),) * 3, "test": (Epoch(10, (4, 5, 2)),)},
)

MASK = Column("mask", "uint8", (4, 5))
USER = {"name": "mask", "dtype": "uint8", "shape": [4, 5]}
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SIDES = st.integers(1, 300)


@st.composite
def plans(pick: st.DrawFn) -> Plan:
    """Any plan whose channels fit."""
    channels = pick(st.integers(1, 3))
    epoch = st.builds(Epoch, st.integers(1, 2**17), st.tuples(SIDES, SIDES, st.just(channels)))
    numbers = st.tuples(*[FLOATS] * channels)
    positive = st.tuples(*[st.floats(min_value=0, exclude_min=True, allow_infinity=False)] * channels)
    splits = {"train": tuple(pick(st.lists(epoch, min_size=1, max_size=4)))}
    for name in pick(st.sets(st.sampled_from(["test", "val"]))):
        splits[name] = (pick(epoch),)
    return Plan(
        source=Source(
            name=pick(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)),
            classes=tuple(pick(st.lists(st.text(), min_size=1, max_size=4))),
            mean=pick(numbers),
            std=pick(positive),
            sha256=pick(st.dictionaries(st.sampled_from(["train", "test"]), st.text())),
            recipe=pick(st.text()),
        ),
        augmentation=pick(st.dictionaries(st.text(), st.integers() | st.text() | FLOATS, max_size=3)),
        dtype=pick(st.sampled_from(IMAGE_DTYPES)),
        seed=pick(st.integers(0, 2**63 - 1)),
        splits=splits,
    )


def read_back(directory: Path, data: bytes) -> Plan:
    (directory / MANIFEST).write_bytes(data)
    return Plan.read(directory)


def resealed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return the plan's manifest with a change and a checksum that is right for it."""
    content = json.loads(PLAN.to_bytes())
    del content["checksum"]
    change(content)
    return serialize(content)


@given(plan=plans())
def test_a_plan_comes_back_equal_from_its_bytes(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> None:
    again = read_back(tmp_path_factory.getbasetemp(), plan.to_bytes())
    assert again == plan
    assert again.identity == plan.identity
    assert again.to_bytes() == plan.to_bytes()


def test_the_identity_does_not_change_with_the_number_of_epochs() -> None:
    assert {PLAN.with_epochs(count).identity for count in (1, 2, 3, 30)} == {PLAN.identity}
    assert len(PLAN.identity) == 32


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAN, augmentation={**PLAN.augmentation, "pad": 5}),
        replace(PLAN, augmentation={**PLAN.augmentation, "cutout": 0}),
        replace(PLAN, dtype="float32"),
        replace(PLAN, user_columns=(MASK,)),
        replace(PLAN, by_pipeline=True),
        replace(PLAN, seed=4),
        replace(PLAN, source=replace(SOURCE, name="other")),
        replace(PLAN, source=replace(SOURCE, classes=("dog", "cat"))),
        replace(PLAN, source=replace(SOURCE, mean=(0.25, 0.5000000000000001))),
        replace(PLAN, source=replace(SOURCE, std=(0.125, 2.0))),
        replace(PLAN, source=replace(SOURCE, sha256={"train": "aa", "test": "bc"})),
        replace(PLAN, splits={**PLAN.splits, "train": (Epoch(1000, (5, 4, 2)),)}),
    ],
    ids=["pad", "parameter", "dtype", "columns", "pipeline", "seed", "name", "classes", "mean", "std", "data", "shape"],
)
def test_the_identity_changes_with_everything_else(other: Plan) -> None:
    assert other.identity != PLAN.identity
    assert len(differences(PLAN, other)) == 1


def test_differences_name_the_field_and_both_values() -> None:
    other = replace(PLAN, seed=4, augmentation={"name": "standard", "pad": 5, "flip": "random"})
    assert differences(PLAN, other) == [
        "augmentation.pad is 4 there, 5 asked for",
        "seed is 3 there, 4 asked for",
    ]
    assert differences(PLAN, PLAN.with_epochs(30)) == []
    assert differences(PLAN, replace(PLAN, source=replace(SOURCE, sha256={"train": "cc", "test": "bb"}))) == [
        "source.sha256.train is 'aa' there, 'cc' asked for"
    ]


def test_with_epochs_keeps_epochs_and_repeats_the_last_shape() -> None:
    sizes = replace(PLAN, splits={"train": (Epoch(9, (4, 4, 2)), Epoch(9, (6, 6, 2)))})
    assert sizes.with_epochs(1).splits["train"] == (Epoch(9, (4, 4, 2)),)
    assert sizes.with_epochs(4).splits["train"] == (Epoch(9, (4, 4, 2)),) + (Epoch(9, (6, 6, 2)),) * 3


@given(
    samples=st.integers(1, 4000),
    shape=st.tuples(st.integers(1, 700), st.integers(1, 700), st.integers(1, 4)),
    dtype=st.sampled_from(IMAGE_DTYPES),
)
@example(samples=500_000, shape=(32, 32, 3), dtype="float16")
@example(samples=129, shape=(1, 1, 1), dtype="uint8")
@example(samples=3, shape=(10_000, 10_000, 3), dtype="float32")
def test_shards_hold_every_sample_once_and_in_order(samples: int, shape: tuple[int, int, int], dtype: str) -> None:
    plan = replace(PLAN, dtype=dtype, splits={"train": (Epoch(samples, shape),)})
    shards = plan.shards("train", 0)
    next_sample = next_record = 0
    for number, shard in enumerate(shards):
        assert (shard.number, shard.first_sample, shard.first_record) == (number, next_sample, next_record)
        assert shard.samples > 0
        records = list(shard.records())
        assert [key for key, _ in records] == [f"e000-r{next_record + i:05d}" for i in range(len(records))]
        assert sum(layout.samples for _, layout in records) == shard.samples
        assert all(layout.samples == shard.record_samples for _, layout in records[:-1])
        extents = [layout.size_bytes for _, layout in records]
        assert shard.size_bytes == sum(extents) + 1024
        assert shard.size_bytes <= 256 * 2**20 + 1024 or len(records) == 1
        next_sample += shard.samples
        next_record += len(records)
    assert next_sample == samples
    counts = [sum(1 for _ in shard.records()) for shard in shards]
    assert max(counts) - min(counts) <= 1


def test_only_the_last_record_of_an_epoch_is_short() -> None:
    plan = replace(PLAN, dtype="uint8", splits={"train": (Epoch(999, (512, 512, 3)),)})
    layouts = [layout.samples for shard in plan.shards() for _, layout in shard.records()]
    assert len(plan.shards()) > 1
    assert layouts == [RECORD_BYTES // (512 * 512 * 3)] * 499 + [1]


def test_shards_are_named_by_split_epoch_and_number() -> None:
    plan = replace(PLAN, splits={**PLAN.splits, "val": (Epoch(5, (4, 5, 2)),)})
    assert [shard.tar for shard in plan.shards()] == [
        "test-000.tar",
        "val-000.tar",
        "train-e000-000.tar",
        "train-e001-000.tar",
        "train-e002-000.tar",
    ]
    assert [shard.index for shard in plan.shards("train", 1)] == ["train-e001-000.json"]
    assert [key for key, _ in plan.shards("test")[0].records()] == ["test-r00000"]
    assert plan.with_epochs(1002).shards("train", 1001)[0].tar == "train-e1001-000.tar"


def test_a_directory_without_a_manifest_is_no_shard_set(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=r"no manifest\.json here.*prebake precompute"):
            Plan.read(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(seed=4), "identity"),
        (lambda c: c.update(identity="0" * 32), "identity"),
        (lambda c: c["augmentation"].update(pad=1), "identity"),
        (lambda c: c.update(version=3), "version 2, found prebake version 3"),
        (lambda c: c.update(format="other"), "format"),
        (lambda c: c["columns"][0].update(dtype="float64"), "images: dtype: expected one of float16, uint8, float32"),
        (lambda c: c["columns"].pop(1), "expected images, index and labels first"),
        (lambda c: c["columns"].reverse(), "expected images, index and labels first"),
        (lambda c: c.update(columns=[]), "expected images, index and labels first"),
        (lambda c: c["columns"].append(USER), "identity"),
        (lambda c: c["columns"].append({**USER, "name": "../mask"}), "expected names like"),
        (lambda c: c["columns"].append({**USER, "name": "labels"}), "expected different names"),
        (lambda c: c["columns"].append({**USER, "dtype": "object"}), "mask: dtype: expected one of bool"),
        (lambda c: c["columns"].append({**USER, "shape": [4, 0]}), "mask: shape: expected at most 8 sizes"),
        (lambda c: c["columns"].append({**USER, "shape": [1] * 9}), "mask: shape: expected at most 8 sizes"),
        (lambda c: c["columns"].append({**USER, "shape": [4, True]}), r"columns\[3\]: shape: expected whole numbers"),
        (lambda c: c["columns"].append({**USER, "shape": [2**16, 2**17]}), "at most 4294967296 bytes per sample"),
        (lambda c: c["columns"].append({**USER, "more": 1}), "identity"),
        (lambda c: c.update(normalized=1), "contradicts itself"),
        (lambda c: c.update(normalized="by the pipeline"), "identity"),
        (lambda c: c["splits"].update(extra=[[1, 4, 5, 2]]), "splits"),
        (lambda c: c["splits"].pop("train"), "splits"),
        (lambda c: c["splits"].update(train=[]), "splits"),
        (lambda c: c["splits"].update(test=[]), "one epoch of test and of val"),
        (lambda c: c["splits"].update(test=[[10, 4, 5, 2]] * 2), "one epoch of test and of val"),
        (lambda c: c["splits"].update(test=[[10, 4, 5, 3]]), "channels"),
        (lambda c: c["source"].update(mean=[0.5]), "channels"),
        (lambda c: c["source"].update(std=[0.5]), "channels"),
        (lambda c: c["splits"].update(test=[[0, 4, 5, 2]]), "splits: expected"),
        (lambda c: c["splits"].update(test=[[10, -4, 5, 2]]), "splits: expected"),
        (lambda c: c["splits"].update(test=[[10, 4, 5]]), "splits: expected"),
        (lambda c: c["splits"].update(test=[[10, 4, 5, True]]), "splits: expected"),
        (lambda c: c["splits"].update(test=[[2**40, 4, 5, 2]]), "splits: expected"),
        (lambda c: c["splits"].update(test=10), "expected a list"),
        (lambda c: c.update(seed=-1), "seed"),
        (lambda c: c.pop("seed"), "seed is missing"),
        (lambda c: c.update(source=[]), "expected an object"),
        pytest.param(
            lambda c: c["columns"][0].update(shape=[9, 9, 2]),
            "expected images, index and labels first",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_back(tmp_path, resealed(change))


def test_the_remedy_is_a_command_for_the_shell() -> None:
    assert PLAN.remedy(Path("shards/cifar10")).startswith("Rebuild it: prebake repair shards/cifar10 (")
    assert "repair 'my shards/a;b' (" in PLAN.remedy(Path("my shards/a;b"))


SMALL = Epoch(1, (1, 1, 2))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (replace(PLAN, splits={"train": (SMALL,) * 8193}), "at most 8192 epochs, found 8193"),
        (replace(PLAN, splits={"train": (Epoch(2**15 + 1, (2**13, 2**13, 2)),)}), "at most 32768 shards, found 32769"),
        (replace(PLAN, source=replace(SOURCE, classes=("",) * 65537)), "at most 65536 classes, found 65537"),
        (replace(PLAN, source=replace(SOURCE, mean=(0.0,) * 4097)), "at most 4096 channels, found 4097"),
        (replace(PLAN, source=replace(SOURCE, recipe="x" * 2**21)), "at most 2097152 bytes, found"),
    ],
    ids=["epochs", "shards", "classes", "channels", "bytes"],
)
def test_a_plan_beyond_the_limits_is_not_written(plan: Plan, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan.to_bytes()


def test_the_largest_plans_are_written_and_read(tmp_path: Path) -> None:
    for plan in (
        replace(PLAN, splits={"train": (SMALL,) * 8192}),
        replace(PLAN, splits={"train": (Epoch(2**15, (2**13, 2**13, 2)),)}),
        replace(PLAN, source=replace(SOURCE, classes=("",) * 65536)),
    ):
        assert read_back(tmp_path, plan.to_bytes()) == plan
    assert len(replace(PLAN, splits={"train": (Epoch(2**15, (2**13, 2**13, 2)),)}).shards()) == 2**15
