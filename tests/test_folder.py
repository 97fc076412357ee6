"""Folders of pictures: read as by torchvision's ImageFolder, or refused with a reason."""

import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from prebake.errors import DataError, MachineError, UsageError
from prebake.loader.shard_set import ShardSet
from prebake.precompute.images import SourceData
from tests.helpers.asked import precompute_command
from tests.helpers.pictures import picture, read, saved, write_cats, write_folder
from tests.helpers.small import files


@pytest.fixture(scope="module")
def ziffern(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 digits to train and 60 to test, as a folder of PNGs; read only."""
    folder = tmp_path_factory.mktemp("folders") / "Ziffern für alle"
    write_folder(digits, folder, most=60)
    return folder


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    """Two classes of two colour pictures each, 8x6, to train and to test."""
    return write_cats(tmp_path / "cats")


def as_torchvision_has_it(root: Path, channels: int, side: int | None) -> tuple[list[str], list[Any], list[int]]:
    """Return classes, pixels and labels as torchvision's own loader and transforms give them."""
    transform = v2.Compose([v2.Resize(side), v2.CenterCrop(side)]) if side else None
    loaded = ImageFolder(
        root, transform=transform, loader=lambda path: Image.open(path).convert("L" if channels == 1 else "RGB")
    )
    pairs = [(np.asarray(image).reshape(image.height, image.width, channels), label) for image, label in loaded]
    return loaded.classes, [pixels for pixels, _ in pairs], [label for _, label in pairs]


def assert_as_torchvision_has_it(source: SourceData, folder: Path, channels: int, side: int | None = None) -> None:
    for split, images in source.splits.items():
        classes, pixels, labels = as_torchvision_has_it(folder / split, channels, side)
        assert list(source.classes) == classes
        assert images.labels_N.tolist() == labels
        assert np.array_equal(images.images_NHWC, np.stack(pixels))


def test_commands_bake_audit_and_repair_a_folder(ziffern: Path, tmp_path: Path) -> None:
    named = f"folder:{ziffern}"
    baked = precompute_command("--dataset", named, "--epochs", 2, "--augment", "plain", "--dtype", "uint8",
                               "--out", tmp_path)  # fmt: skip
    assert baked.status == 0, baked.said
    assert "decode Ziffern-fur-alle: 120 pictures" in baked.said
    data = ShardSet(tmp_path / "Ziffern-fur-alle")
    source = read(ziffern)
    for record in data.records("train", 1):
        images, labels, index = record.images_NHWC, record.labels_N, record.index_N
        assert np.array_equal(images, source.splits["train"].images_NHWC[index])
        assert np.array_equal(labels, source.splits["train"].labels_N[index])
    before = files(data.path)
    assert not [name for name, content in before.items() if str(ziffern).encode() in content or b"alle/" in content]
    refused = precompute_command("audit", data.path)
    assert refused.status == 3
    assert "--dataset folder:PATH" in refused.said
    assert precompute_command("audit", data.path, "--all", "--dataset", named).status == 0
    (data.path / "train-e001-000.tar").write_bytes(b"")
    repaired = precompute_command("repair", data.path, "--dataset", named)
    assert repaired.status == 0, repaired.said
    assert files(data.path) == before
    again = precompute_command("--dataset", named, "--epochs", 2, "--augment", "plain", "--dtype", "uint8",
                               "--memory", "1MB", "--workers", 1, "--out", tmp_path / "again")  # fmt: skip
    assert again.status == 0, again.said
    assert files(tmp_path / "again" / data.path.name) == before


def test_a_folder_is_read_as_torchvision_reads_it(ziffern: Path) -> None:
    source = read(ziffern)
    assert source.splits["train"].pixels.shape == (60, 8, 8, 1)
    assert_as_torchvision_has_it(source, ziffern, 1)


@pytest.mark.parametrize("side", [5, 7, 16])
def test_pictures_are_resized_and_cropped_as_by_torchvision(side: int, tmp_path: Path) -> None:
    sizes = [(8, 6), (6, 9), (7, 7), (31, 8), (5, 16), (16, 16)]
    for number, size in enumerate(sizes * 2):
        picture(tmp_path / "train" / str(number % 2) / f"{number}.png", number, size, "RGB" if number else "L")
    with pytest.raises(DataError, match=r"pictures of 6 sizes, 8x6 \(2\), .* and 2 more; .* --image-size 64"):
        read(tmp_path)
    source = read(tmp_path, image_size=side)
    assert source.splits["train"].pixels.shape == (12, side, side, 3)
    assert_as_torchvision_has_it(source, tmp_path, 3, side)


def test_names_and_extensions_of_all_kinds_are_read(cats: Path) -> None:
    for split in ("train", "test"):
        for name in ("Ваня и кот", "猫", "a b", "A B", "cat'\"$(x)"):
            picture(cats / split / name / "Großes Bild.PNG", 1)
            picture(cats / split / name / "deeper" / "still" / "x.Bmp", 2)
        for junk in (".DS_Store", "cat/Thumbs.db", "cat/._0.png", "cat/notes.txt", ".ipynb_checkpoints/x.png"):
            (cats / split / junk).parent.mkdir(exist_ok=True)
            (cats / split / junk).write_bytes(b"junk")
        (cats / split / "cat" / "link.png").symlink_to(next((cats / split / "dog").glob("?.png")))
        (cats / split / "eel").symlink_to("eel")
    shutil.rmtree(cats / "train" / ".ipynb_checkpoints")
    (cats / "__MACOSX").mkdir()
    source = read(cats)
    said = source.summary()
    assert source.classes == ("A B", "a b", "cat", "cat'\"$(x)", "dog", "Ваня и кот", "猫")
    assert np.bincount(source.splits["train"].labels_N).tolist() == [2, 2, 3, 2, 2, 2, 2]
    assert "left out: 6 files that are not named like pictures in a class" in said
    assert "notes.txt" in said
    assert "eel" in said


def test_a_file_name_that_is_not_utf_8_is_escaped(cats: Path) -> None:
    try:
        os.mkdir(os.fsencode(cats / "train") + b"/caf\xe9")  # noqa: PTH102 - bytes
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    inside = os.fsencode(cats / "train") + b"/caf\xe9/\xff.png"
    shutil.copy(os.fsencode(next((cats / "train" / "cat").iterdir())), inside)
    assert read(cats).classes == ("caf\\xe9", "cat", "dog")
    with open(inside, "wb"):  # noqa: PTH123 - as above
        pass
    with pytest.raises(DataError, match=re.escape(r"caf\xe9/\xff.png (")):
        read(cats)


def test_a_folder_of_classes_alone_is_training_data(cats: Path) -> None:
    source = read(cats / "train")
    assert list(source.splits) == ["train"]
    assert (source.name, source.classes) == ("train", ("cat", "dog"))


@pytest.mark.parametrize(
    ("parts", "splits"),
    [
        ({"train": "train", "test": "val"}, ["train", "test"]),
        ({"train": "Training", "test": "TESTING"}, ["train", "test"]),
        ({"train": "train", "test": "valid"}, ["train", "test"]),
        ({"train": "trainval", "test": "eval"}, ["train", "test"]),
        ({"train": "train", "test": "dev"}, ["train", "test"]),
    ],
)
def test_split_directories_may_have_any_usual_name(parts: dict[str, str], splits: list[str], cats: Path) -> None:
    expected = read(cats)
    for before, after in parts.items():
        (cats / before).rename(cats / after)
    found = read(cats)
    assert list(found.splits) == splits
    for split in splits:
        assert np.array_equal(found.splits[split].images_NHWC, expected.splits[split].images_NHWC)


def test_a_test_part_without_classes_is_reported(cats: Path) -> None:
    shutil.rmtree(cats / "test")
    picture(cats / "test" / "1.png", 1)
    source = read(cats)
    assert list(source.splits) == ["train"]
    assert "left out: test, which has no pictures in classes; left out: 1 files that" in source.summary()


def test_a_class_may_have_another_unicode_form_in_test(cats: Path) -> None:
    picture(cats / "train" / unicodedata.normalize("NFC", "Café") / "1.png", 1)
    picture(cats / "test" / unicodedata.normalize("NFD", "Café") / "1.png", 1)
    source = read(cats)
    assert source.classes == (unicodedata.normalize("NFC", "Café"), "cat", "dog")
    assert [np.bincount(images.labels_N).tolist() for images in source.splits.values()] == [[1, 2, 2]] * 2


def test_files_beside_the_splits_are_reported(cats: Path) -> None:
    (cats / "more.zip").write_bytes(b"x")
    (cats / "notes").mkdir()
    assert "left out: 1 files that are not named like pictures in a class (more.zip)" in read(cats).summary()


@pytest.mark.parametrize(("highest", "said"), [(4095, True), (4096, False)])
def test_12_bits_in_a_16_bit_file_get_a_hint(highest: int, said: bool, cats: Path) -> None:
    for path in cats.rglob("*.png"):
        Image.fromarray(np.linspace(0, highest, 48).reshape(6, 8).astype(np.uint16)).save(path)
    assert ("8 pictures have 16 bits and no value above 4095" in read(cats).summary()) is said


@pytest.mark.slow
def test_a_validation_part_beside_a_test_part_is_kept(cats: Path, tmp_path: Path) -> None:
    shutil.copytree(cats / "test", cats / "val")
    baked = precompute_command("--dataset", f"folder:{cats}", "--epochs", 1, "--out", tmp_path / "out")
    assert baked.status == 0, baked.said
    assert sorted(ShardSet(tmp_path / "out" / "cats").splits) == ["test", "train", "val"]
    assert precompute_command("audit", tmp_path / "out" / "cats", "--dataset", f"folder:{cats}").status == 0
    refused = precompute_command("--dataset", f"folder:{cats}", "--epochs", 1, "--val-fraction", 0.5, "--out", tmp_path)
    assert refused.status == 2
    assert "--val-fraction: cats has validation images of its own" in refused.said


def spoil(folder: Path) -> list[str]:
    """Put pictures that can't be read into a folder; return their names."""
    part = folder / "train" / "dog"
    noise = np.random.default_rng(5).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), format="JPEG")
    (part / "a empty.png").write_bytes(b"")
    (part / "b truncated.jpg").write_bytes(whole[:-40])
    (part / "c header.jpg").write_bytes(whole[:30])
    (part / "d text.png").write_text("<html>")
    (part / "e link.png").symlink_to(part / "nowhere.png")
    os.mkfifo(part / "f pipe.png")
    Image.fromarray(noise[..., 0].astype(np.float32)).save(part / "g float.tif")
    (part / "h circle.png").symlink_to("h circle.png")
    return sorted(path.name for path in part.iterdir() if " " in path.name)


def test_unreadable_pictures_stop_the_bake_unless_skipped(cats: Path, tmp_path: Path) -> None:
    before = read(cats)
    spoilt = spoil(cats)
    command = ("--dataset", f"folder:{cats}", "--epochs", 1, "--out", tmp_path / "out")
    stopped = precompute_command(*command)
    assert stopped.status == 3
    assert "Traceback" not in stopped.said
    assert "error: cats: 8 of 16 pictures can't be read" in stopped.said
    assert "--skip-unreadable" in stopped.said
    assert all(name in stopped.said for name in spoilt)
    assert not (tmp_path / "out").exists()
    baked = precompute_command(*command, "--skip-unreadable")
    assert baked.status == 0, baked.said
    assert "cats: train 4 images of 2 classes, test 4 images of 2 classes; left out: 8 pictures that" in baked.said
    assert all(name in baked.said for name in spoilt)
    left = read(cats, skip_unreadable=True)
    for split, images in before.splits.items():
        assert np.array_equal(left.splits[split].images_NHWC, images.images_NHWC)
        assert left.splits[split].labels_N.tolist() == images.labels_N.tolist()
    audited = precompute_command("audit", tmp_path / "out" / "cats", "--dataset", f"folder:{cats}", "--skip-unreadable")
    assert audited.status == 0, audited.said
    (tmp_path / "out" / "cats" / "train-e000-000.json").unlink()
    options = f"--dataset folder:{cats} --data-dir {tmp_path / 'data'} --skip-unreadable"
    audited = precompute_command("audit", tmp_path / "out" / "cats", *options.split())
    remedy = f"prebake repair {tmp_path / 'out' / 'cats'} {options}"
    assert f"{remedy}\n" in audited.said
    assert precompute_command(*remedy.split()[1:]).status == 0


def all_unreadable(folder: Path) -> None:
    for path in folder.glob("train/*/*.png"):
        path.write_bytes(b"")


def move_up(folder: Path) -> None:
    (folder / "cats").mkdir()
    (folder / "train").rename(folder / "cats" / "train")
    (folder / "test").rename(folder / "cats" / "test")


def replaced_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"x")


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def class_named_train(folder: Path) -> None:
    shutil.rmtree(folder)
    for name in ("bus", "car", "train"):
        picture(folder / name / "old" / "1.png", 1)
        picture(folder / name / "new" / "2.png", 2)


def two_forms(folder: Path) -> None:
    picture(folder / "train" / unicodedata.normalize("NFC", "Café") / "1.png", 1)
    picture(folder / "train" / unicodedata.normalize("NFD", "Café") / "1.png", 1)


def splits_in_classes(folder: Path) -> None:
    shutil.rmtree(folder)
    for name in ("cat", "dog"):
        picture(folder / name / "train" / "1.png", 1)
        picture(folder / name / "test" / "1.png", 2)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, r"folder:.*cats: no such directory"),
    "an archive": (replaced_by_a_file, "a file; unpack it first"),
    "no train": (lambda f: shutil.rmtree(f / "train"), "has test, but no train"),
    "one class": (lambda f: shutil.rmtree(f / "train" / "dog"), "expected at least two directories of classes.*'cat'"),
    "one level up": (move_up, r"expected at least two.*try folder:.*cats/cats"),
    "an empty folder": (emptied, "expected at least two .*, found none"),
    "an empty class": (lambda f: (f / "train" / "eel").mkdir(), r"1 of 3 classes have no pictures \('eel'\)"),
    "no pictures": (lambda f: picture(f / "train" / "eel" / "x.jp2", 1), r"1 of 3 classes have no pictures"),
    "a class of the test": (lambda f: picture(f / "test" / "eel" / "1.png", 1), "1 classes that are not in train"),
    "two trains": (lambda f: shutil.copytree(f / "train", f / "Train"), "both Train and train would be its train part"),
    "a class named train": (
        class_named_train,
        r"beside train, .* 2 directories .*: 'bus', 'car'\. If",
    ),
    "splits in classes": (splits_in_classes, "cats/cat: holds the parts test, train, which would all be used alike"),
    "two forms of a name": (two_forms, "two directories are named 'Café', in two Unicode forms"),
    "a circle": (lambda f: (f / "train" / "cat" / "up").symlink_to(f / "train"), "links to a directory above it"),
    "nothing to read": (all_unreadable, "4 of 8 pictures can't be read"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_unusable_folder_is_refused(wrong: str, cats: Path) -> None:
    spoil_it, said = WRONG[wrong]
    spoil_it(cats)
    with pytest.raises(DataError, match=said):
        read(cats, skip_unreadable=True)


def test_a_picture_too_thin_to_resize_is_unreadable(cats: Path) -> None:
    Image.new("RGB", (30000, 1)).save(cats / "train" / "cat" / "flat.png")
    Image.new("RGB", (1, 30000)).save(cats / "train" / "cat" / "thin.png")
    with pytest.raises(DataError, match=r"2 of 10 pictures can't be read: .*flat\.png .*thin\.png .*would become "):
        read(cats, image_size=224)
    assert read(cats, image_size=224, skip_unreadable=True).splits["train"].labels_N.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("side", [0, -3, 5000])
def test_an_image_size_outside_its_range_is_refused(side: int, cats: Path) -> None:
    with pytest.raises(UsageError, match=f"--image-size: expected 1 to 4096 pixels, found {side}"):
        read(cats, image_size=side)


def test_missing_space_is_reported_before_decoding(cats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "prebake.precompute.sources.pictures.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000)
    )
    with pytest.raises(MachineError, match=r"1\.15 kB of decoded pixels .* 1\.00 kB are free"):
        read(cats)


@pytest.mark.slow
def test_padding_and_cutout_are_scaled_to_the_pictures(cats: Path, tmp_path: Path) -> None:
    for options, expected in (([], (8, 16)), (["--cutout", "3"], (8, 3))):
        baked = precompute_command("--dataset", f"folder:{cats}", "--epochs", 1, "--image-size", 64, "--out",
                                   tmp_path / str(len(options)), *options)  # fmt: skip
        assert baked.status == 0, baked.said
        manifest = json.loads((tmp_path / str(len(options)) / "cats" / "manifest.json").read_text())
        assert (manifest["augmentation"]["pad"], manifest["augmentation"]["cutout"]) == expected


@pytest.mark.slow
def test_two_folders_of_one_name_are_refused(cats: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(cats, tmp_path / "other" / "cats")
    refused = precompute_command("--dataset", f"folder:{cats}", f"folder:{copy}", "--epochs", 1, "--out", tmp_path)
    assert refused.status == 2
    assert "several are named cats" in refused.said


def test_list_names_every_source() -> None:
    listed = precompute_command("list")
    assert listed.status == 0
    assert [line.split()[0] for line in listed.said.splitlines()] == [
        *("digits", "cifar10", "cifar100", "mnist", "fashion-mnist", "kmnist", "emnist", "svhn"),
        *("folder:PATH", "hf:NAME", "webdataset:URLS", "FILE.py:NAME"),
    ]


@pytest.mark.slow
def test_cifar10_as_png_files_gives_the_same_pixels(cifar10: SourceData, data_dir: Path, tmp_path: Path) -> None:
    write_folder(cifar10, tmp_path / "pngs")
    for name in (f"folder:{tmp_path / 'pngs'}", "cifar10"):
        options = ["--data-dir", str(data_dir), "--epochs", "1", "--augment", "plain", "--out", str(tmp_path / "out")]
        command = [sys.executable, "-m", "precompute", "--dataset", name, *options]
        subprocess.run(command, cwd=Path(__file__).parent.parent, check=True)
    ours, theirs = ShardSet(tmp_path / "out" / "pngs"), ShardSet(tmp_path / "out" / "cifar10")
    assert ours.classes == theirs.classes
    assert (ours.plan.source.mean, ours.plan.source.std) == (
        theirs.plan.source.mean, theirs.plan.source.std)  # fmt: skip
    for split in ("train", "test"):
        # A folder's images are sorted by class, and by number in it.
        labels = cifar10.splits[split].labels_N
        place = np.argsort(np.argsort(labels, kind="stable"), kind="stable")
        assert np.array_equal(by_index(ours, split)[place], by_index(theirs, split))


def by_index(data: ShardSet, split: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return pixels and labels of a split as bytes, by source index."""
    rows: list[Any] = [None] * data.samples(split)
    for record in data.records(split, 0):
        images, labels, index = record.images_NHWC, record.labels_N, record.index_N
        for image, label, i in zip(images, labels, index, strict=True):
            rows[i] = np.frombuffer(image.tobytes() + label.tobytes(), np.uint8)
    return np.stack(rows)
