"""WebDataset shards of pictures."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from prebake.errors import DataError, UsageError
from prebake.precompute.images import SourceData
from prebake.precompute.sources import load
from prebake.precompute.sources.registry import Decoding
from tests.helpers.asked import precompute_command
from tests.helpers.small import bake
from tests.helpers.tars import png, write_tar


def sample(key: str, label: str) -> dict[str, bytes]:
    return {f"{key}.png": png(1), f"{key}.cls": label.encode()}


def two_classes(path: Path) -> None:
    """Write an archive of one sample of class 0 and one of class 1."""
    write_tar(path, {**sample("a", "0"), **sample("b", "1")})


def read(where: str | Path) -> SourceData:
    return load(f"webdataset:{where}", Path("unused"), Decoding())


@pytest.fixture
def written(digits: SourceData, tmp_path: Path) -> Path:
    """60 digits to train in two shards, 20 to test in one."""
    (tmp_path / "digits in tar").mkdir()
    for split, first, last in (("train", 0, 30), ("train", 30, 60), ("test", 0, 20)):
        images = digits.splits[split]
        with webdataset.TarWriter(str(tmp_path / "digits in tar" / f"my-{split}-{first:03d}.tar")) as writer:
            for number in range(first, last):
                sample = {"png": Image.fromarray(images.images_NHWC[number, ..., 0]), "json": {"number": number}}
                writer.write({"__key__": f"s{number:04d}", "cls": int(images.labels_N[number]), **sample})
    return tmp_path / "digits in tar"


@pytest.mark.parametrize("where", ["", "/my-{test-000,train-{000,030}}.tar", "/*.tar"])
def test_shards_of_webdataset_are_read(where: str, written: Path, digits: SourceData) -> None:
    source = read(f"{written}{where}")
    assert (source.name, source.classes) == ("digits-in-tar", digits.classes)
    for split, count in (("train", 60), ("test", 20)):
        assert np.array_equal(source.splits[split].images_NHWC, digits.splits[split].images_NHWC[:count])
        assert np.array_equal(source.splits[split].labels_N, digits.splits[split].labels_N[:count])


def test_the_directories_of_shards_may_name_the_split(
    written: Path, digits: SourceData, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, number in (("train", "000"), ("train", "030"), ("test", "000")):
        (written / split).mkdir(exist_ok=True)
        (written / f"my-{split}-{number}.tar").rename(written / split / f"{number}.tar")
    (written / "test").rename(written / "my_Validation")
    monkeypatch.chdir(written / "train")
    for where in (f"{written}/{{train/{{000,030}},my_Validation/000}}.tar", "../*/*.tar"):
        source = read(where)
        assert source.name == "digits-in-tar"
        for split, count in (("train", 60), ("test", 20)):
            assert np.array_equal(source.splits[split].labels_N, digits.splits[split].labels_N[:count])
    assert list(read(written / "my_Validation").splits) == ["train"]  # where all lie in one, it says nothing


def test_files_that_macos_adds_are_ignored(tmp_path: Path) -> None:
    real = {"x/0.png": png(0), "x/0.cls": b"0", "x/1.png": png(1), "x/1.cls": b"1"}
    write_tar(
        tmp_path / "a.tar",
        {each: real.get(each, b"junk") for name in real for each in (name.replace("/", "/._"), name)},
    )
    assert read(tmp_path).splits["train"].labels_N.tolist() == [0, 1]


@pytest.mark.slow
def test_commands_bake_and_audit_shards(written: Path, tmp_path: Path) -> None:
    baked = precompute_command("--dataset", f"webdataset:{written}", "--epochs", 1, "--out", tmp_path)
    assert baked.status == 0, baked.said
    audited = precompute_command("audit", tmp_path / "digits-in-tar", "--dataset", f"webdataset:{written}", "--all")
    assert audited.status == 0, audited.said


def test_a_truncated_or_damaged_archive_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.png": png(1), "1.cls": b"1", "2.png": png(2), "2.cls": b"0"})
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:4096])  # only the zeros at its end are gone, which many do without
    assert read(tmp_path).splits["train"].labels_N.tolist() == [1, 0]
    for damaged in (whole[:100], whole[:600], whole[:2148], whole[:2048] + b"x" + whole[2049:]):
        (tmp_path / "a.tar").write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.tar: no whole, plain tar file"):
            read(tmp_path)


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"x/1.png": png(1), "x/1.cls": b"0\n", "x/2.png": b"", "x/2.cls": b"1"})
    with pytest.raises(DataError, match=r"1 of 2 pictures can't be read: .*a\.tar, x/2\.png \("):
        read(tmp_path)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"1.png": png(1), "1.txt": b"0"}, r"expected one picture and its label \(.cls\) .* found '1.png', '1.txt'"),
        ({"1.cls": b"1"}, "expected one picture and its label"),
        ({"1.png": png(1), "1.jpg": png(1), "1.cls": b"1"}, "expected one picture and its label"),
        ({"1.png": png(1), "1.PNG": png(2), "1.cls": b"1"}, "a.tar: '1.PNG' repeats the key '1' of the sample before"),
        ({"1.png": png(1), "1.cls": b"-1"}, "labels of train: expected labels from 0, found -1"),
        ({"1.png": png(1), "1.cls": b" "}, "a.tar, '1.cls': expected a label, found ''"),
        ({"1.png": png(1), "1.cls": b"0"}, "expected at least two classes in train, found only 0"),
        ({}, "no sample to train on in a.tar"),
    ],
)
def test_other_samples_are_refused(members: dict[str, bytes], said: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=said):
        read(tmp_path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such tar files: the directory holds none"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"no such tar files: .*/a0\.tar, .*/a1\.tar"):
        read(tmp_path / "a{0..1}.tar")
    with pytest.raises(UsageError, match="expected local files"):
        read("https://example.org/a.tar")
    (tmp_path / "a.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"a\.tar: no whole, plain tar file"):
        read(tmp_path)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("1.png"))
        about = tarfile.TarInfo("2.png")
        about.pax_headers = {"GNU.sparse.size": "much"}
        archive.addfile(about)
    with pytest.raises(DataError, match=r"a\.tar: no whole, plain tar file"):
        read(tmp_path)
    ours = bake(tmp_path / "ours", epochs=1)
    with pytest.raises(DataError, match="expected one picture and its label"):
        read(ours.path)


def test_repeated_keys_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for label in (b"0", b"1"):
            for name, data in (("x/7.png", png(1)), ("x/7.cls", label)):
                about = tarfile.TarInfo(name)
                about.size = len(data)
                archive.addfile(about, io.BytesIO(data))
    with pytest.raises(DataError, match=r"a\.tar: 'x/7\.png' repeats the key '7'"):
        read(tmp_path)


def test_keys_may_start_again_later_in_an_archive(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for key, label in (("0", b"0"), ("1", b"0"), ("0", b"1"), ("1", b"1")):
            for name, data in ((f"{key}.png", png(1)), (f"{key}.cls", label)):
                about = tarfile.TarInfo(name)
                about.size = len(data)
                archive.addfile(about, io.BytesIO(data))
    assert read(tmp_path).splits["train"].labels_N.tolist() == [0, 0, 1, 1]


def test_links_in_an_archive_are_refused(tmp_path: Path) -> None:
    two_classes(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        about = tarfile.TarInfo("c.png")
        about.type, about.linkname = tarfile.LNKTYPE, "a.png"
        archive.addfile(about)
    with pytest.raises(DataError, match=r"'c\.png' is a link or a device"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train-0", "eval-0", "dev-0"), {"train": 2, "test": 2, "val": 2}),
        (("imagenet_train2012_00", "imagenet_val2012_00"), {"train": 2, "test": 2}),
        (("a", "b"), {"train": 4}),
        (("a", "Validation.7"), {"train": 2, "test": 2}),
        (("trainval-0", "testing-0"), {"train": 2, "test": 2}),
    ],
)
def test_shard_names_tell_the_split(names: tuple[str, ...], splits: dict[str, int], tmp_path: Path) -> None:
    for name in names:
        two_classes(tmp_path / f"{name}.tar")
    assert {split: len(images.labels_N) for split, images in read(tmp_path).splits.items()} == splits


def test_shards_that_name_no_split_are_reported(tmp_path: Path) -> None:
    for name in ("train-0", "extra-0", "unlabeled-0"):
        two_classes(tmp_path / f"{name}.tar")
    (tmp_path / "sizes.json").write_text("{}")
    assert read(tmp_path).summary() == (
        f"{tmp_path.name}: train 2 images of 2 classes; left out: 1 files that are no tar files (sizes.json); "
        "left out: 2 tar files that name no split (extra-0.tar, unlabeled-0.tar)"
    )


def test_a_name_of_two_splits_is_refused(tmp_path: Path) -> None:
    two_classes(tmp_path / "train-dev-0.tar")
    with pytest.raises(DataError, match=r"train-dev-0\.tar names two splits, train, dev"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["b.tar.gz", "b.tgz", "deep/b.tar.zst", "b.zip"])
def test_compressed_archives_are_not_left_out(name: str, tmp_path: Path) -> None:
    two_classes(tmp_path / "a.tar")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=f"1 archives are compressed: {name}; unpack"):
        read(tmp_path)


def test_archives_below_the_directory_are_read(tmp_path: Path) -> None:
    for name in ("set/train/0", "far/0"):
        (tmp_path / name).parent.mkdir(parents=True)
        two_classes(tmp_path / f"{name}.tar")
    (tmp_path / "set" / "test").symlink_to(tmp_path / "far")
    assert list(read(tmp_path / "set").splits) == ["train", "test"]


def test_an_archive_named_twice_is_refused(tmp_path: Path) -> None:
    two_classes(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"1 names mean the same tar files: .*a\.tar"):
        read(tmp_path / "{a,a}.tar")
    (tmp_path / "b.tar").symlink_to(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"2 names mean the same tar files: .*a\.tar, .*b\.tar"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (("cat", "dog"), ("cat", "dog"), [0, 1]),
        (("1", "2"), ("1", "2"), [0, 1]),
        (("0", "3"), ("0", "1", "2", "3"), [0, 3]),
        (("3 eyes", "1"), ("1", "3 eyes"), [1, 0]),
    ],
)
def test_labels_may_be_numbers_or_text(
    labels: tuple[str, str], classes: tuple[str, ...], numbers: list[int], tmp_path: Path
) -> None:
    write_tar(tmp_path / "a.tar", {**sample("a", labels[0]), **sample("b", labels[1])})
    source = read(tmp_path)
    assert (source.classes, source.splits["train"].labels_N.tolist()) == (classes, numbers)
    absent = "2 classes have no training image: '1', '2'"
    assert (absent in source.summary()) is (len(classes) == 4)
