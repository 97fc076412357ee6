"""An audit finds records that differ from source and plan, even if every checksum fits."""

import importlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prebake
import prebake.precompute.augmenters
from prebake.errors import DataError, UsageError
from prebake.format.columns import IMAGE_DTYPES
from prebake.format.manifest import Shard
from prebake.format.record import Frame
from prebake.format.verify import damage
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import Augmentation, Draw, Encoder, ViewStore, augmentation_for
from tests.attacks.hostile import reseal_manifest
from tests.helpers.asked import precompute_command
from tests.helpers.forgery import KINDS, forge, frame_of
from tests.helpers.small import IMAGES, LABELS, OPTIONS, TEST, bake, files, flip_byte

OURS: dict[str, Any] = {key: OPTIONS[key] for key in ("images", "labels", "test", "classes")}
AUGMENTATIONS = {
    "mirrored": OPTIONS["augment"],
    "alternate": Augmentation("standard", pad=3, pad_mode="zero", flip="alternate", cutout=0),
    "black": Augmentation("standard", pad=1, pad_mode="black", flip="none", cutout=3),
    "plain": augmentation_for("plain"),
    "transform": replace(augmentation_for("trivial-augment-wide"), pad=2, cutout=2),
}


def audit_all(directory: Path, **changes: Any) -> None:
    chosen = {**OURS, "out": directory, "sample": None, **changes}
    prebake.audit(chosen.pop("images"), chosen.pop("labels"), **chosen)


def in_this_process(
    work: Callable[[Shard, threading.Event], Shard], shards: Sequence[Shard], _workers: int
) -> Iterator[Shard]:
    """Replace `imap_processes`, whose processes take seconds to import torch."""
    for shard in shards:
        yield work(shard, threading.Event())


@pytest.fixture
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("prebake.precompute.bake"), "imap_processes", in_this_process)


@pytest.mark.usefixtures("_no_processes")
@pytest.mark.parametrize("dtype", IMAGE_DTYPES)
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_audit_passes_and_finds_one_wrong_bit(
    name: str, dtype: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    data = bake(tmp_path / "set", augment=AUGMENTATIONS[name], dtype=dtype, epochs=2)
    before = files(data.path)
    audit_all(data.path)
    assert files(data.path) == before
    for shard in (data.plan.shards("train", 1)[0], data.plan.shards("val")[0]):
        forge(data.path, shard, len(shard.layouts) - 1, lambda frame: KINDS["bit"](frame, rng))
        assert damage(data.path, shard, data.plan) is None
    with pytest.raises(DataError, match=r"2 shards differ .*images differ .* in 1 of 14 samples") as caught:
        audit_all(data.path)
    assert "train-e001-000.tar, record e001-r00002" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("bit", "images differ from what source and plan give in 1 of 128 samples"),
        ("mirror", "images differ from what source and plan give in 1 of 128 samples"),
        ("swap_images", "images differ from what source and plan give in 2 of 128 samples"),
        ("swap_labels", "labels differ from what source and plan give in 2 of 128 samples"),
        ("swap_indices", "index differ from what source and plan give in 2 of 128 samples"),
        ("swap_samples", "images and index and labels differ from what source and plan give in 2 of 128 samples"),
        ("relabel", "labels differ from what source and plan give in 1 of 128 samples"),
    ],
)
def test_the_message_says_which_member_differs_in_which_samples(kind: str, words: str, there: Path) -> None:
    data = ShardSet(there)
    (shard,) = data.plan.shards("train", 2)
    archive = (there / shard.tar).read_bytes()
    before = frame_of(archive, shard, 1)
    for seed in range(100):  # until the labels of two samples differ, where they are swapped
        (there / shard.tar).write_bytes(archive)
        forge(there, shard, 1, lambda frame, seed=seed: KINDS[kind](frame, np.random.default_rng(seed)))  # type: ignore[misc]
        after = frame_of((there / shard.tar).read_bytes(), shard, 1)
        if ("labels" in words) == (before.labels_N.tobytes() != after.labels_N.tobytes()):
            break
    first = changed(before, after)[0]
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        audit_all(there)
    assert "1 shard differs" in str(caught.value)
    assert f"{there / shard.tar}, record e002-r00001" in str(caught.value)
    assert f"first in sample {first} (source index {before.index_N[first]})" in str(caught.value)


def changed(before: Frame, after: Frame) -> list[int]:
    """Return which samples differ."""
    arrays = ("images_NHWC", "index_N", "labels_N")
    return [
        i
        for i in range(before.layout.samples)
        if any(getattr(before, name)[i].tobytes() != getattr(after, name)[i].tobytes() for name in arrays)
    ]


def test_a_byte_of_headers_or_padding_is_found_too(there: Path) -> None:
    shard = ShardSet(there).plan.shards("test")[0]
    flip_byte(there / shard.tar, 300)
    with pytest.raises(DataError, match="record test-r00000: headers or padding differ from what"):
        audit_all(there)


def forgeries(directory: Path, count: int) -> Iterator[tuple[Shard, int]]:
    """Forge records at random, one at a time: yield shard and record, and put back what was there."""
    rng, plan = np.random.default_rng(7), ShardSet(directory).plan
    kinds, shards = list(KINDS), plan.shards()
    done = 0
    while done < count:
        kind, shard = kinds[rng.integers(len(kinds))], shards[rng.integers(len(shards))]
        number = int(rng.integers(len(shard.layouts)))
        before = {name: (directory / name).read_bytes() for name in (shard.tar, shard.index)}
        forge(directory, shard, number, lambda frame, kind=kind: KINDS[kind](frame, rng))  # type: ignore[misc]
        if (directory / shard.tar).read_bytes() != before[shard.tar]:  # two samples of one label swap to the same
            yield shard, number
            done += 1
        for name, data in before.items():
            (directory / name).write_bytes(data)


@pytest.mark.parametrize("cases", [25, pytest.param(4000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", IMAGE_DTYPES)
def test_every_forgery_whose_checksums_fit_is_found(
    dtype: str, cases: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    directory = bake(tmp_path / "set", dtype=dtype, epochs=2).path
    plan, found = ShardSet(directory).plan, 0
    for shard, number in forgeries(directory, cases):
        assert damage(directory, shard, plan) is None, "verify would have found it"
        key = list(shard.records())[number][0]
        with pytest.raises(DataError, match=rf"1 shard differs .*{shard.tar}, record {key}: "):
            audit_all(directory)
        found += 1
    audit_all(directory)
    record_property("cases", found)
    assert found == cases


def test_a_sample_finds_a_forgery_if_it_draws_it(there: Path) -> None:
    shard = ShardSet(there).plan.shards("train", 0)[0]
    forge(there, shard, 0, lambda frame: KINDS["bit"](frame, np.random.default_rng(0)))

    def is_found(sample: int, seed: int | None) -> bool:
        try:
            audit_all(there, sample=sample, seed=seed)
        except DataError:
            return True
        return False

    drawn = [is_found(5, seed) for seed in range(33)]  # 5 of 11 records: 15 of 33, deviation 2.9
    assert 7 <= sum(drawn) <= 23
    assert drawn[:10] == [is_found(5, seed) for seed in range(10)]
    assert is_found(11, 0)
    assert 0 < sum(is_found(5, None) for _ in range(33)) < 33  # who would forge can't know which
    assert is_found(1000, 0)


def test_only_the_images_of_a_record_are_prepared_at_a_time(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, prepare = [], ViewStore.__init__

    def counted(self: ViewStore, images: Any, *rest: Any) -> None:
        made.append(len(images))
        prepare(self, images, *rest)

    monkeypatch.setattr(ViewStore, "__init__", counted)
    audit_all(there)
    assert sorted(made) == sorted([40, 30] + 3 * [128, 128, 14])


def other_flip(drawn: Draw) -> Draw:
    flip = drawn.flip.copy()
    flip[5] ^= drawn.flip.any()  # held-out splits are not mirrored, and have no store of mirrored images
    return replace(drawn, flip=flip)


MISTAKES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "flip": ("draw", lambda drawn: other_flip(drawn)),
    "crop": ("draw", lambda drawn: replace(drawn, y=drawn.y[::-1].copy())),
    "cutout": ("draw", lambda drawn: replace(drawn, cut_x=drawn.cut_x * 0)),
    "order": ("order", lambda order: np.roll(order, 1)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_baking_is_found(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, change = MISTAKES[mistake]
    with monkeypatch.context() as patch:
        right = getattr(prebake.precompute.augmenters, name)
        patch.setattr(prebake.precompute.augmenters, name, lambda *arguments: change(right(*arguments)))
        data = bake(tmp_path / "set", epochs=1)
    assert all(damage(data.path, shard, data.plan) is None for shard in data.plan.shards())
    with pytest.raises(DataError, match=r"train-e000-000\.tar, record e000-r0000\d: images"):
        audit_all(data.path)


def test_a_kernel_that_copies_wrongly_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode", lambda self, images: self.tables[0][images])
        data = bake(tmp_path / "set", epochs=1)
    with pytest.raises(DataError, match=r"images differ .* in \d+ of"):
        audit_all(data.path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["source"].update(mean=[0.5, 0.5, 0.5]), r"source\.mean is \[0\.5"),
        (lambda m: m["source"].update(std=[0.5, 0.5, 0.5]), r"source\.std is \[0\.5"),
        (lambda m: m["source"].update(classes=list("abced")), r"source\.classes is "),
        (lambda m: m["source"]["sha256"].update(train="0" * 64), r"source\.sha256\.train is '000"),
        (lambda m: m["source"]["sha256"].update(test="0" * 64), r"source\.sha256\.test is '000"),
        (lambda m: m["splits"]["val"][0].__setitem__(0, 31), r"source\.sha256\.(train|val) is"),
        (
            lambda m: m["splits"]["val"][0].__setitem__(0, 300),
            "300 validation images were held out, and images has only 300",
        ),
        (lambda m: m["splits"]["train"][1].__setitem__(0, 269), "the epochs of train are not those"),
        (lambda m: m["splits"]["test"][0].__setitem__(1, 7), "the epochs of test are not those"),
        (lambda m: m["splits"].pop("test"), "the epochs of test are not those"),
        (lambda m: m["augmentation"].update(cutout=3), r"train-e000-000.tar, record e000-r00000: images differ"),
        (lambda m: m["augmentation"].update(cutout=99), "--cutout: expected at most 6"),
        (lambda m: m["augmentation"].update(cutout="2"), "cutout: expected a whole number"),
        (lambda m: m["augmentation"].update(flip="upwards"), "flip: expected one of .*use the release that baked it"),
        (lambda m: m["augmentation"].update(blur=1), "unknown fields blur; use the release that baked it"),
        (lambda m: m["augmentation"].pop("pad"), "pad is missing"),
        (
            lambda m: m["augmentation"].update(transform="f", library="torch 1"),
            "with the transform f; name it with --transform",
        ),
        (lambda m: m.update(seed=1), r"record e000-r00000: images and index and labels differ"),
        (lambda m: m.update(seed=2**63), "--seed: expected 0 to"),
    ],
)
def test_a_manifest_of_another_source_is_refused(
    change: Callable[[dict[str, Any]], object], said: str, there: Path
) -> None:
    reseal_manifest(there, change)
    with pytest.raises(DataError, match=said):
        audit_all(there)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": IMAGES[::-1]}, r"source\.sha256\.train"),
        ({"labels": LABELS[::-1]}, r"source\.sha256\.train"),
        ({"test": None}, r"source\.sha256\.test"),
        ({"test": (TEST[0][::-1], TEST[1])}, r"source\.sha256\.test"),
        ({"classes": "abced"}, r"source\.classes"),
        ({"images": IMAGES[:20], "labels": LABELS[:20]}, "has only 20"),
    ],
)
def test_other_arrays_are_refused_with_what_differs(changes: dict[str, Any], said: str, done: Path) -> None:
    with pytest.raises(DataError, match=said):
        audit_all(done, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sample": 0}, "--sample: expected at least 1, found 0"),
        ({"seed": -1}, "--seed: expected 0 to"),
        ({"seed": 2**63}, "--seed: expected 0 to"),
        ({"images": IMAGES.astype(float)}, "images: expected uint8"),
        ({"labels": LABELS[1:]}, "images: expected 300 labels, one per image, found 299"),
        ({"labels": LABELS.astype(float)}, "expected whole numbers, bool or text, found float64"),
        ({"test": (TEST[0], TEST[1] - 1)}, "labels of test: expected labels from 0, found -1"),
    ],
)
def test_arguments_outside_their_range_are_refused(changes: dict[str, Any], said: str, done: Path) -> None:
    with pytest.raises(UsageError, match=said):
        audit_all(done, **changes)


def test_missing_and_truncated_archives_are_reported(there: Path) -> None:
    (there / "train-e000-000.json").unlink()
    (there / "train-e001-000.tar").unlink()
    (there / "train-e002-000.tar").write_bytes((there / "train-e002-000.tar").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"2 shards differ .*1 shard is missing \(train-e000-000\.tar\)") as caught:
        audit_all(there)
    assert "train-e001-000.tar: missing, though its index is there" in str(caught.value)
    (there / "train-e001-000.json").unlink()
    with pytest.raises(DataError, match=r"record e002-r00000: the archive is too short; and 2 more records"):
        audit_all(there)


def test_a_set_of_which_nothing_is_there_yet_is_no_crash(there: Path) -> None:
    for path in there.glob("*-*"):
        path.unlink()
    with pytest.raises(DataError, match=r"5 shards are missing \(test-000\.tar, val-000\.tar"):
        audit_all(there)


def test_arrays_are_audited_without_their_classes(done: Path) -> None:
    audit_all(done, classes=None)


@pytest.fixture(scope="module")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of digits with a validation split, baked by the command; read only."""
    root = tmp_path_factory.mktemp("audited")
    baked = precompute_command("--dataset", "digits", "--epochs", 2, "--val-fraction", 0.1, "--out", root)
    assert baked.status == 0, baked.said
    return root


@pytest.fixture
def baked_digits(digits_root: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(digits_root / "digits", tmp_path / "digits"))


def test_audit_prints_one_line_if_all_records_match(digits_root: Path) -> None:
    directory = digits_root / "digits"
    whole = precompute_command("audit", directory)
    assert (whole.status, whole.said) == (
        0,
        f"{directory}: 27 of 27 records derived anew, byte for byte as stored\n",
    )
    some = precompute_command("audit", directory, "--sample", 5, "--seed", 3)
    line = f"{directory}: 5 of 27 records derived anew, byte for byte as stored (drawn by --seed 3)\n"
    assert (some.status, some.said) == (0, line)
    seeds = {precompute_command("audit", directory, "--sample", 5).said for _ in range(2)}
    assert len(seeds) == 2


def test_the_command_names_what_differs_and_its_remedy_mends_it(baked_digits: Path, digits_root: Path) -> None:
    shard = ShardSet(baked_digits).plan.shards("train", 1)[0]
    forge(baked_digits, shard, 3, lambda frame: KINDS["relabel"](frame, np.random.default_rng(0)))
    found = precompute_command("audit", baked_digits, "--all")
    assert found.status == 3
    assert (
        f"\n{baked_digits / shard.tar}, record e001-r00003: labels differ from what source and plan give" in found.said
    )
    remedy = f"prebake repair {baked_digits} {shard.tar}"
    assert f"Bake them anew: {remedy}\n" in found.said
    said = precompute_command("audit", baked_digits, "--json").said
    about = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert (list(about["differing"]), about["missing"], about["records"]) == ([shard.tar], [], 27)
    assert precompute_command(*remedy.split()[1:]).status == 0
    assert precompute_command("audit", baked_digits).status == 0
    assert files(baked_digits) == files(digits_root / "digits")


def test_audit_of_arrays_names_the_python_function(done: Path) -> None:
    refused = precompute_command("audit", done)
    assert refused.status == 3
    assert "baked from pictures or arrays named 'images', which the manifest does not locate" in refused.said
    assert "prebake.audit()" in refused.said


def test_other_data_under_a_known_name_is_told_apart(baked: ShardSet, tiny: ShardSet) -> None:
    assert precompute_command("audit", baked.path).status == 0
    refused = precompute_command("audit", tiny.path)
    assert refused.status == 3
    assert "source.sha256.train is " in refused.said
    assert "prebake.audit()" in refused.said


def test_a_sample_of_official_shards_is_audited(data_dir: Path, tmp_path: Path) -> None:
    options = ("--data-dir", data_dir)
    baked = precompute_command("--dataset", "mnist", "--epochs", 1, "--dtype", "uint8", "--out", tmp_path, *options)
    assert baked.status == 0, baked.said
    directory = tmp_path / "mnist"
    audited = precompute_command("audit", directory, *options)
    assert audited.status == 0
    assert f"{directory}: 100 of 548 records derived anew, byte for byte as stored" in audited.said
    shutil.rmtree(directory)
