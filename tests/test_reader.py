"""Reading: batches are the records' samples, checked, in fresh arrays; and without torch."""

import io
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import prebake
from prebake.errors import DataError, UsageError
from prebake.loader.shard_set import ShardSet
from prebake.precompute.images import SourceData

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def samples(baked: ShardSet) -> dict[tuple[str, int], tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Images, labels and indices of each split and epoch, as tarfile and numpy.load see them."""
    found = {}
    for split, epoch in (("train", 0), ("train", 1), ("test", 0), ("val", 0)):
        arrays: dict[str, list[NDArray[Any]]] = {"images": [], "labels": [], "index": []}
        for shard in baked.plan.shards(split, epoch):
            with tarfile.open(baked.path / shard.tar) as archive:
                for member in archive:
                    file = archive.extractfile(member)
                    assert file is not None
                    arrays[member.name.split(".")[1]].append(np.load(io.BytesIO(file.read())))
        images, labels, index = (np.concatenate(arrays[name]) for name in ("images", "labels", "index"))
        found[split, epoch] = images, labels, index
    return found


@pytest.fixture(scope="module", params=["float16", "uint8", "float32"])
def encoded(request: pytest.FixtureRequest, digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """A hundred digits to test, in each dtype."""
    train, test = digits.splits["train"], digits.splits["test"]
    out = tmp_path_factory.mktemp("encoded") / request.param
    prebake.bake(
        train.images_NHWC[:50],
        train.labels_N[:50],
        test=(test.images_NHWC[:100], test.labels_N[:100]),
        name="digits",
        recipe="digits",
        dtype=request.param,
        epochs=1,
        out=out,
    )
    return ShardSet(out)


@settings(max_examples=30)
@given(
    batch_size=st.integers(1, 700),
    drop_last=st.booleans(),
    which=st.sampled_from([("train", 1), ("test", 0), ("val", 0)]),
)
@example(batch_size=1, drop_last=False, which=("val", 0))
@example(batch_size=700, drop_last=True, which=("test", 0))
@example(batch_size=75, drop_last=True, which=("val", 0))
@example(batch_size=128, drop_last=True, which=("train", 1))
def test_batches_of_any_size_are_the_records_samples(
    batch_size: int, drop_last: bool, which: tuple[str, int], baked: ShardSet, samples: Any
) -> None:
    images_NHWC, labels_N, _ = samples[which]
    batches = list(baked.batches(*which, batch_size=batch_size, drop_last=drop_last))
    whole, rest = divmod(len(labels_N), batch_size)
    sizes = [batch_size] * whole + ([rest] if rest and not drop_last else [])
    assert [len(labels) for _, labels in batches] == sizes
    assert [len(images) for images, _ in batches] == sizes
    if sizes:
        images = np.concatenate([images for images, _ in batches])
        labels = np.concatenate([labels for _, labels in batches])
        assert images.dtype == np.float16
        assert labels.dtype == np.int64
        assert images.tobytes() == images_NHWC[: len(images)].tobytes()
        assert labels.tolist() == labels_N[: len(labels)].tolist()


def test_records_have_images_labels_and_source_indices(baked: ShardSet, samples: Any) -> None:
    start = 0
    for record in baked.records("train", 1):
        images, labels, index = record.images_NHWC, record.labels_N, record.index_N
        part = slice(start, start + len(labels))
        found: list[NDArray[Any]] = [images, labels, index]
        for array, expected in zip(found, samples["train", 1], strict=True):
            assert array.dtype == expected.dtype
            assert array.tobytes() == expected[part].tobytes()
        start += len(labels)
    assert start == baked.samples("train", 1) == 1350


def test_each_batch_has_its_own_arrays(baked: ShardSet, samples: Any) -> None:
    images_NHWC, labels_N, _ = samples["train", 0]
    kept = list(baked.batches("train", 0, batch_size=100))
    for (images, labels), (next_images, next_labels) in itertools.combinations(kept, 2):
        assert not np.shares_memory(images, next_images)
        assert not np.shares_memory(labels, next_labels)
    assert np.concatenate([images for images, _ in kept]).tobytes() == images_NHWC.tobytes()
    assert np.concatenate([labels for _, labels in kept]).tolist() == labels_N.tolist()


def test_overwriting_a_batch_does_not_change_the_next(baked: ShardSet, samples: Any) -> None:
    images_NHWC, labels_N, _ = samples["train", 0]
    for i, (images, labels) in enumerate(baked.batches("train", 0, batch_size=100)):
        part = slice(100 * i, 100 * i + len(labels))
        assert images.tobytes() == images_NHWC[part].tobytes()
        assert labels.tolist() == labels_N[part].tolist()
        images[:], labels[:] = 7, -1


def test_an_epoch_can_be_read_again_and_beside_another(baked: ShardSet, samples: Any) -> None:
    both = zip(baked.batches("train", 0, batch_size=200), baked.batches("train", 1, batch_size=200), strict=True)
    for i, pair in enumerate(both):
        for epoch, (images, labels) in enumerate(pair):
            part = slice(200 * i, 200 * i + len(labels))
            assert images.tobytes() == samples["train", epoch][0][part].tobytes()


def test_a_set_tells_its_content(baked: ShardSet) -> None:
    assert (baked.name, baked.epochs) == ("digits", 2)
    assert baked.classes == tuple("0123456789")
    assert set(baked.splits) == {"train", "test", "val"}
    assert [baked.samples(split) for split in ("train", "val", "test")] == [1350, 150, 297]
    assert baked.image_shape("test") == (8, 8, 1)
    assert baked.missing() == []
    described = "digits, train 1350, val 150, test 297, float16 images of shape (8, 8, 1), 2 epochs"
    assert repr(baked) == f"ShardSet({str(baked.path)!r}: {described})"


def test_a_directory_of_sets_is_refused_and_names_them(baked: ShardSet) -> None:
    with pytest.raises(DataError, match=rf"no shard set, but a directory of shard sets \({baked.path}\). Name one"):
        ShardSet(baked.path.parent)


def test_normalize_follows_the_formula_for_every_dtype(encoded: ShardSet, digits: SourceData) -> None:
    pixels = digits.splits["test"].images_NHWC[:100].astype(np.float64)
    source = encoded.plan.source
    expected = (pixels / 255 - source.mean[0]) / source.std[0]
    ((stored, _),) = encoded.batches("test", batch_size=100)
    assert stored.dtype == encoded.plan.dtype
    found = encoded.normalize(stored)
    assert found.dtype == np.float32
    assert found.shape == (100, 8, 8, 1)
    stored_as = np.float16 if encoded.plan.dtype == "float16" else np.float32
    assert np.array_equal(found, expected.astype(stored_as).astype(np.float32))


def test_normalize_uses_the_mean_of_each_channel(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (9, 4, 5, 3), dtype=np.uint8) // np.array([1, 2, 4], np.uint8)
    prebake.bake(
        pixels, np.arange(9), test=(pixels, np.arange(9)), augment="plain", dtype="uint8", epochs=1, out=tmp_path
    )
    data = ShardSet(tmp_path)
    ((images, _),) = data.batches("test", batch_size=9)
    expected = (pixels / 255 - pixels.mean((0, 1, 2)) / 255) / (pixels.std((0, 1, 2)) / 255)
    np.testing.assert_allclose(data.normalize(images), expected, rtol=1e-5, atol=1e-6)


def test_normalizing_another_dtype_is_refused(encoded: ShardSet) -> None:
    with pytest.raises(UsageError, match=f"expected {encoded.plan.dtype} as stored, found int64"):
        encoded.normalize(np.zeros((1, 8, 8, 1), np.int64))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_under_one_is_refused_at_once(batch_size: int, baked: ShardSet) -> None:
    with pytest.raises(UsageError, match=f"at least 1, found {batch_size}"):
        baked.batches("train", batch_size=batch_size)


@pytest.mark.parametrize(("split", "epoch"), [("train", 2), ("train", -1), ("test", 1), ("valid", 0)])
def test_an_unknown_split_or_epoch_is_refused(split: str, epoch: int, baked: ShardSet) -> None:
    message = "no split named 'valid'; there are" if split == "valid" else f"{split} has epochs 0 to . found|{epoch}"
    for ask in (
        lambda: next(baked.batches(split, epoch, batch_size=1)),
        lambda: next(baked.records(split, epoch)),
        lambda: next(baked.open_shards(split, epoch)),
        lambda: baked.samples(split, epoch),
        lambda: baked.image_shape(split, epoch),
        lambda: baked.webdataset(split, epoch),
    ):
        with pytest.raises(UsageError, match=message):
            ask()


@pytest.mark.parametrize("ending", ["tar", "json"])
def test_a_missing_shard_is_named_and_the_others_are_read(ending: str, baked: ShardSet, tmp_path: Path) -> None:
    data = ShardSet(shutil.copytree(baked.path, tmp_path / "copy"))
    (data.path / f"train-e001-000.{ending}").unlink()
    with pytest.raises(DataError, match=r"train-e001-000\.tar.*missing.*prebake repair"):
        next(data.batches("train", 1, batch_size=10))
    assert data.missing() == ([] if ending == "tar" else ["train-e001-000.tar"])
    assert sum(len(labels) for _, labels in data.batches("train", 0, batch_size=512)) == 1350


def test_a_flipped_byte_is_found_before_its_sample_is_yielded(baked: ShardSet, tmp_path: Path) -> None:
    data = ShardSet(shutil.copytree(baked.path, tmp_path / "copy"))
    extent = next(data.open_shards("train", 0)).index.extents[3]
    with (data.path / "train-e000-000.tar").open("r+b") as file:
        file.seek(extent.offset + 1000)
        byte = file.read(1)[0]
        file.seek(extent.offset + 1000)
        file.write(bytes([byte ^ 1]))
    batches = data.batches("train", 0, batch_size=1)
    assert len(list(itertools.islice(batches, 3 * 128))) == 384
    with pytest.raises(DataError, match=r"train-e000-000\.tar, record e000-r00003: bytes differ.*expected.*found"):
        next(batches)


def test_short_reads_are_continued(
    baked: ShardSet, samples: Any, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    real = os.preadv
    reads = 0

    def short(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        nonlocal reads
        reads += 1
        left, cut = int(rng.integers(1, 9000)), []
        for view in buffers:
            cut.append(view[:left])
            left -= len(cut[-1])
        return real(descriptor, cut, offset)

    monkeypatch.setattr(os, "preadv", short)
    images = np.concatenate([images for images, _ in baked.batches("train", 0, batch_size=99)])
    assert reads > 11 + 1  # more than one a record
    assert images.tobytes() == samples["train", 0][0].tobytes()


def test_reading_shards_needs_no_torch(baked: ShardSet) -> None:
    code = """
import sys
sys.modules["torch"] = None
import prebake
from prebake.loader.shard_set import ShardSet
data = ShardSet(sys.argv[1])
count = sum(len(labels) for _, labels in data.batches("train", 1, batch_size=512))
data.normalize(next(data.batches("test", batch_size=4))[0])
loaded = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
print(count, sorted(loaded & {"torch", "torchvision", "PIL", "webdataset", "tqdm", "precompute", "train"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(baked.path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1350 []\n", "")
