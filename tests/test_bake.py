"""Baking: the same bytes however it is done, gone on with where it ended, and nothing foreign touched."""

import collections
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import precompute
from precompute.augment import Augmentation, augmentation_for, draw
from precompute.sources import SourceData
from shards import DataError, MachineError, ShardSet, UsageError
from shards.contents import digest
from shards.drop import drop_epochs
from shards.record import ENCODINGS
from shards.verify import damage
from tests.test_apply import choices_at, variant

ROOT = Path(__file__).resolve().parents[1]
AUGMENTATION = Augmentation("standard", pad=2, pad_mode="reflect", flip="random", cutout=2)
RNG = np.random.default_rng(4)
IMAGES, LABELS = RNG.integers(0, 256, (300, 6, 7, 3), dtype=np.uint8), RNG.integers(0, 5, 300)
TEST = RNG.integers(0, 256, (40, 6, 7, 3), dtype=np.uint8), RNG.integers(0, 5, 40)
OPTIONS: dict[str, Any] = {
    "images": IMAGES,
    "labels": LABELS,
    "test": TEST,
    "augment": AUGMENTATION,
    "val_fraction": 0.1,
    "epochs": 3,
    "classes": "abcde",
}


def bake(out: Path, **changes: Any) -> ShardSet:
    precompute.bake(**{**OPTIONS, "out": out, **changes})
    return ShardSet(out)


def files(directory: Path) -> dict[str, bytes]:
    """Return the content of every file but the lock, which lies outside the promise."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "bake.lock"}


def stamps(directory: Path) -> dict[str, tuple[int, int]]:
    """Return what changes when a file is written, of archives and indexes."""
    found = {path.name: path.stat() for path in directory.iterdir() if "-" in path.name}
    return {name: (stat.st_mtime_ns, stat.st_ino) for name, stat in found.items()}


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 255
    path.write_bytes(data)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set that OPTIONS bake; read only."""
    return bake(tmp_path_factory.mktemp("done") / "set").path


@pytest.fixture
def there(done: Path, tmp_path: Path) -> Path:
    """A copy of it, times and all."""
    return Path(shutil.copytree(done, tmp_path / "there"))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_one_worker_and_three_write_the_same_bytes(encoding: str, tmp_path: Path) -> None:
    one = bake(tmp_path / "one", encoding=encoding, workers=1)
    three = bake(tmp_path / "three", encoding=encoding, workers=3)
    assert len(files(one.path)) == 1 + 2 * 5
    assert files(one.path) == files(three.path)
    assert digest(one) == digest(three)


def test_two_epochs_and_then_five_are_five_at_once(tmp_path: Path) -> None:
    two = bake(tmp_path / "set", epochs=2)
    before = stamps(two.path)
    five = bake(tmp_path / "set", epochs=5)
    assert five.epochs == 5
    assert {name: stamp for name, stamp in stamps(five.path).items() if name in before} == before
    assert files(five.path) == files(bake(tmp_path / "at once", epochs=5).path)


def test_fewer_epochs_than_are_there_leave_all_as_it_is(there: Path) -> None:
    before = files(there)
    assert bake(there, epochs=1).epochs == 3
    assert files(there) == before


def test_every_epoch_holds_each_image_once_in_an_order_of_its_own(baked: ShardSet) -> None:
    orders, labels_of = [], []
    for epoch in range(2):
        records = [(index.copy(), labels.copy()) for _, labels, index in baked.records("train", epoch)]
        order = np.concatenate([index for index, _ in records])
        assert sorted(order.tolist()) == list(range(1350))
        orders.append(order.tolist())
        labels_of.append(dict(zip(order.tolist(), np.concatenate([labels for _, labels in records]), strict=True)))
    assert labels_of[0] == labels_of[1]
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


def test_every_sample_is_the_variant_that_its_draw_says(done: Path) -> None:
    data = ShardSet(done)
    source = data.plan.source
    kept = np.concatenate([index for _, _, index in data.records("val")])
    assert kept.tolist() == list(range(30))
    train_images, train_labels = held_in()
    for epoch in range(3):
        drawn = draw(AUGMENTATION, 0, epoch, 0, 270, (6, 7, 3))
        for images, labels, index in data.records("train", epoch):
            assert labels.tolist() == train_labels[index].tolist()
            for image, i in zip(images, index, strict=True):
                choices = choices_at(drawn, int(i))
                made = variant(train_images[i], AUGMENTATION, choices, source.mean, source.deviation, "float16")
                assert image.tobytes() == made.tobytes()


def held_in() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the training images that the validation split leaves, and check that it takes the others."""
    from precompute.sources import Images, hold_out

    cut = hold_out(SourceData("images", ("a",), {"train": Images(IMAGES, LABELS)}), 0.1).splits
    assert len(cut["val"].labels_N) == 30
    return cut["train"].images_NHWC, cut["train"].labels_N


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_test_split_is_the_source_unaugmented_and_in_its_order(encoding: str, tmp_path: Path) -> None:
    data = bake(tmp_path / "set", encoding=encoding, epochs=1)
    ((images, labels),) = data.batches("test", batch_size=100)
    pixels, expected_labels = TEST
    if encoding == "uint8":
        assert np.array_equal(images, pixels)
    else:
        mean, deviation = np.array(data.plan.source.mean), np.array(data.plan.source.deviation)
        assert images.tobytes() == ((pixels / 255 - mean) / deviation).astype(encoding).tobytes()
    assert labels.tolist() == expected_labels.tolist()
    assert np.concatenate([index for _, _, index in data.records("test")]).tolist() == list(range(40))


def test_validation_and_training_images_together_are_the_source(tmp_path: Path) -> None:
    data = bake(tmp_path / "set", encoding="uint8", augment="plain", epochs=1)
    assert (data.samples("train"), data.samples("val")) == (270, 30)
    pairs = [pair for split in ("train", "val") for pair in data.batches(split, batch_size=300)]
    found = sorted(
        image.tobytes() + bytes([label])
        for images, labels in pairs
        for image, label in zip(images, labels, strict=True)
    )
    assert found == sorted(image.tobytes() + bytes([label]) for image, label in zip(IMAGES, LABELS, strict=True))


def test_the_manifest_s_statistics_are_those_of_the_training_images_alone(done: Path) -> None:
    images, _ = held_in()
    source = ShardSet(done).plan.source
    np.testing.assert_allclose(source.mean, images.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(source.deviation, images.std((0, 1, 2)) / 255, rtol=1e-12)


def test_grey_images_without_a_channel_axis_get_one(tmp_path: Path) -> None:
    data = bake(tmp_path / "set", images=IMAGES[..., 0], test=None, classes=None, val_fraction=0, epochs=1)
    assert data.image_shape("train") == (6, 7, 1)
    assert data.classes == ("0", "1", "2", "3", "4")
    assert data.splits == ("train",)


def test_a_second_run_finds_all_done_and_writes_no_shard(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = stamps(there), files(there), (there / "bake.lock").read_bytes()
    bake(there)
    assert (stamps(there), files(there), (there / "bake.lock").read_bytes()) == before
    assert "all 3 epochs are in" in capsys.readouterr().err


def test_a_second_run_does_not_touch_the_manifest_either(there: Path) -> None:
    before = (there / "manifest.json").stat()
    bake(there)
    after = (there / "manifest.json").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def changed(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of which one value is another."""
    array = array.copy()
    array.reshape(-1)[7] ^= 1
    return array


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"augment": Augmentation("standard", 2, "reflect", "random", 3)}, r"augmentation\.cutout is 2 there, 3 asked"),
        ({"augment": "plain"}, r"augmentation\.name is 'standard' there, 'plain' asked for"),
        ({"seed": 1}, "seed is 0 there, 1 asked for"),
        ({"encoding": "uint8"}, "encoding is 'float16' there, 'uint8' asked for"),
        ({"images": changed(IMAGES)}, r"source\.sha256\.train"),
        ({"labels": LABELS[::-1]}, r"source\.sha256\.train"),
        ({"test": (TEST[0], TEST[1][::-1])}, r"source\.sha256\.test"),
        ({"test": None}, r"source\.sha256\.test"),
        ({"val_fraction": 0.2}, r"source\.sha256\.train"),
        ({"val_fraction": 0}, r"source\.sha256\.val"),
        ({"classes": "abcdf"}, r"source\.classes"),
        ({"name": "others"}, r"source\.name is 'images' there, 'others' asked for"),
    ],
)
def test_other_plans_are_refused_with_what_differs_and_replaced_when_asked(
    changes: dict[str, Any], named: str, there: Path, tmp_path: Path
) -> None:
    before = files(there), stamps(there)
    with pytest.raises(DataError, match=named) as caught:
        bake(there, **changes)
    assert "--overwrite" in str(caught.value)
    assert (files(there), stamps(there)) == before
    (there / "notes.txt").write_text("mine")
    (there / "other-000.tar").write_text("mine too")
    bake(there, **changes, epochs=1, overwrite=True)
    expected = files(bake(tmp_path / "fresh", **changes, epochs=1).path)
    assert files(there) == {**expected, "notes.txt": b"mine", "other-000.tar": b"mine too"}


def test_shards_without_a_manifest_are_refused(there: Path, done: Path) -> None:
    (there / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"holds .*-000\..*, but no manifest\.json"):
        bake(there)
    bake(there, overwrite=True)
    assert files(there) == files(done)


def test_a_damaged_manifest_is_refused_and_replaced_when_asked(there: Path, done: Path) -> None:
    flip_byte(there / "manifest.json", 50)
    with pytest.raises(DataError, match=r"manifest\.json"):
        bake(there)
    bake(there, overwrite=True)
    assert files(there) == files(done)


@pytest.mark.parametrize(
    "harm",
    [
        lambda directory: flip_byte(directory / "train-e001-000.tar", 3000),
        lambda directory: flip_byte(directory / "train-e001-000.tar", -1),
        lambda directory: flip_byte(directory / "train-e001-000.json", 30),
        lambda directory: (directory / "train-e001-000.json").write_bytes(b""),
        lambda directory: (directory / "train-e001-000.json").unlink(),
        lambda directory: (directory / "train-e001-000.tar").unlink(),
        lambda directory: (directory / "train-e001-000.tar").write_bytes(b""),
        lambda directory: shutil.copy(directory / "train-e002-000.tar", directory / "train-e001-000.tar"),
        lambda directory: (directory / "train-e001-000.tar.part").write_bytes(b"half"),
        lambda directory: (directory / "manifest.json.part").write_bytes(b"half"),
    ],
    ids=["flip", "last byte", "index", "no index", "index gone", "tar gone", "empty", "copy", "part", "manifest part"],
)
def test_a_second_bake_repairs_what_is_damaged_and_nothing_else(
    harm: Callable[[Path], object], there: Path, done: Path
) -> None:
    before = stamps(there)
    harm(there)
    bake(there)
    assert files(there) == files(done)
    after = stamps(there)
    assert {name for name in after if after[name] != before[name]} <= {"train-e001-000.tar", "train-e001-000.json"}


def test_a_directory_in_which_another_process_bakes_is_refused(there: Path) -> None:
    code = """
import sys
from pathlib import Path
from shards.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""
    before = files(there)
    command = [sys.executable, "-c", code, str(there)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        for act in (lambda: bake(there, epochs=4, overwrite=True), lambda: drop_epochs(ShardSet(there), 1)):
            with pytest.raises(DataError, match="another process is baking here"):
                act()
        assert files(there) == before
        other.communicate()
    assert other.returncode == 0
    assert bake(there, epochs=4).missing() == []


KILLED = """
import sys
import numpy as np
import precompute
images = np.arange(200 * 16).astype(np.uint8).reshape(200, 4, 4)
augment = precompute.Augmentation("standard", 1, "zero", "random", 1)
precompute.bake(images, np.arange(200) % 7, augment=augment, epochs=800, encoding="uint8", out=sys.argv[1], workers=2)
"""


def test_a_bake_killed_twice_is_gone_on_with_to_the_same_bytes(tmp_path: Path) -> None:
    out, fresh = tmp_path / "killed", tmp_path / "fresh"
    for lines in (1, 40):
        # Its progress fills the pipe, so it can't end before it is killed.
        command = [sys.executable, "-c", KILLED, str(out)]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for _ in range(lines):
                assert "done" in process.stderr.readline()
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGKILL
        data = ShardSet(out)
        missing = set(data.missing())
        whole = [shard for shard in data.plan.shards() if shard.tar not in missing]
        assert len(whole) >= lines
        assert missing
        assert [damage(out, shard, data.plan) for shard in whole] == [None] * len(whole)
    for directory in (out, fresh):
        subprocess.run([sys.executable, "-c", KILLED, str(directory)], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    assert files(out) == files(fresh)
    assert len(files(out)) == 1 + 2 * 800


def test_an_error_in_one_worker_ends_all_and_the_next_run_goes_on(
    tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if "train-e001-000.tar" in Path(target).name:
            raise OSError(28, "No space left on device", str(target))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing)
        with pytest.raises(OSError, match="No space left"):
            bake(tmp_path / "set", workers=2)
    left = {path.name for path in (tmp_path / "set").iterdir()}
    assert not left & {"train-e001-000.tar", "train-e001-000.json"}
    assert "manifest.json" in left
    bake(tmp_path / "set")
    assert files(tmp_path / "set") == files(done)


def test_dropped_epochs_are_baked_again_to_the_same_bytes(there: Path, done: Path) -> None:
    freed = drop_epochs(ShardSet(there), 1)
    gone = {name: data for name, data in files(done).items() if name.startswith(("train-e001", "train-e002"))}
    assert freed == sum(len(data) for data in gone.values())
    assert set(files(there)) == set(files(done)) - set(gone)
    assert (ShardSet(there).epochs, ShardSet(there).missing()) == (1, [])
    assert files(there) == files(bake(there, epochs=1).path)
    bake(there)
    assert files(there) == files(done)


def test_epoch_zero_can_not_be_dropped(there: Path) -> None:
    before = files(there)
    with pytest.raises(UsageError, match="at least epoch 0 stays"):
        drop_epochs(ShardSet(there), 0)
    assert files(there) == before


def test_too_little_space_is_said_before_anything_is_written(
    tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(shard.size_bytes for shard in ShardSet(done).plan.shards())
    usage = collections.namedtuple("usage", "total used free")
    for free in (0, needed - 1):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(10**9, 0, free))
        with pytest.raises(MachineError, match=r"to be written.*free.*--dtype uint8"):
            bake(tmp_path / "set")
        assert files(tmp_path / "set") == {}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, needed))
    assert files(bake(tmp_path / "set").path) == files(done)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs: expected at least 1, found 0"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**63}, "--seed"),
        ({"encoding": "float64"}, "--dtype: expected one of float16, uint8, float32"),
        ({"augment": "strong"}, "--augment: no augmentation named 'strong'; there are standard, plain"),
        ({"augment": Augmentation("standard", 6, "reflect", "none", 0)}, "--pad"),
        ({"augment": Augmentation("standard", 0, "reflect", "none", 7)}, "--cutout"),
        ({"val_fraction": 1.5}, "--val-fraction"),
        ({"val_fraction": 0.0001}, "--val-fraction"),
        ({"images": IMAGES.astype(np.float32)}, "images: expected uint8"),
        ({"images": IMAGES[0, 0]}, "images: expected uint8"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "images: expected uint8"),
        ({"images": IMAGES[:, :0]}, "images: expected uint8"),
        ({"labels": LABELS[:-1]}, "images: expected 300 whole-number labels"),
        ({"labels": LABELS[:, None]}, "images: expected 300 whole-number labels"),
        ({"labels": LABELS.astype(float)}, "images: expected 300 whole-number labels"),
        ({"labels": LABELS - 1}, "images: expected labels from 0 to"),
        ({"labels": LABELS + 5}, "labels: found 9, but there are only 5 classes"),
        ({"test": (TEST[0][:, :5], TEST[1])}, "test images: expected"),
        ({"test": (TEST[0], TEST[1] + 5)}, "labels: found 9"),
        ({"test": (TEST[0], TEST[1][:3])}, "test images: expected 40 whole-number labels"),
        ({"test": (TEST[0].astype(np.int64), TEST[1])}, "test images: expected uint8"),
        ({"workers": -1}, "workers"),
        ({"workers": 0}, "workers"),
        ({"labels": LABELS.astype(np.uint64) + np.uint64(2**64 - 9)}, "labels"),
    ],
)
def test_arguments_outside_their_range_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        bake(tmp_path / "set", **changes)
    assert not (tmp_path / "set").exists()


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A directory that is too large to be kept."""
    yield tmp_path / "large"
    shutil.rmtree(tmp_path / "large", ignore_errors=True)


@pytest.mark.parametrize(("encoding", "epochs"), [("float16", 2), ("uint8", 1)])
def test_samples_of_cifar10_are_the_variants_that_seed_epoch_and_index_say(
    encoding: str, epochs: int, cifar10: SourceData, scratch: Path, rng: np.random.Generator
) -> None:
    train = cifar10.splits["train"]
    augmentation = augmentation_for("cifar10")
    precompute.bake(
        train.images_NHWC,
        train.labels_N,
        classes=cifar10.classes,
        name="cifar10",
        encoding=encoding,
        epochs=epochs,
        out=scratch,
    )
    data = ShardSet(scratch)
    source = data.plan.source
    np.testing.assert_allclose(source.mean, (0.4914, 0.4822, 0.4465), atol=1e-4)
    np.testing.assert_allclose(source.deviation, (0.2470, 0.2435, 0.2616), atol=1e-4)
    checked = 0
    for epoch in range(epochs):
        drawn = draw(augmentation, 0, epoch, 0, 50_000, (32, 32, 3))
        seen = np.zeros(50_000, bool)
        for images, labels, index in data.records("train", epoch):
            seen[index] = True
            assert np.array_equal(labels, train.labels_N[index])
            if rng.random() < 0.9:
                at = int(rng.integers(len(index)))
                i = int(index[at])
                made = variant(
                    train.images_NHWC[i], augmentation, choices_at(drawn, i), source.mean, source.deviation, encoding
                )
                assert images[at].tobytes() == made.tobytes()
                checked += 1
        assert seen.all()
    assert checked >= 300


@pytest.mark.slow
def test_25_epochs_of_cifar10_hold_each_index_once_an_epoch_in_another_order(
    cifar10: SourceData, scratch: Path
) -> None:
    train = cifar10.splits["train"]
    precompute.bake(train.images_NHWC, train.labels_N, classes=cifar10.classes, name="cifar10", epochs=25, out=scratch)
    data = ShardSet(scratch)
    orders = set()
    for epoch in range(25):
        order = np.concatenate([index.copy() for _, _, index in data.records("train", epoch)])
        assert np.array_equal(np.sort(order), np.arange(50_000))
        orders.add(order.tobytes())
    assert len(orders) == 25


def test_overwriting_keeps_the_old_set_where_the_new_one_does_not_fit(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used() -> int:
        return sum(path.stat().st_size for path in there.iterdir())

    before = {path.name: path.read_bytes() for path in there.iterdir()}
    size = used()  # a disk that the old set has filled
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size - used()))
    with pytest.raises(MachineError, match="to be written"):
        bake(there, encoding="float32", overwrite=True)
    assert {path.name: path.read_bytes() for path in there.iterdir()} == before
    bake(there, encoding="uint8", overwrite=True)  # half the bytes fit into what the old set frees
    assert ShardSet(there).plan.encoding == "uint8"


@pytest.mark.parametrize("name", ["../x", "", "a b", ".hidden", "x" * 65])
def test_a_name_that_is_no_file_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name: expected"):
        bake(tmp_path / "set", name=name)


def test_classes_that_are_no_strings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="classes: expected strings"):
        bake(tmp_path / "set", classes=range(10))
