"""WebDataset shards of pictures, written by webdataset itself or by hand."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from prebake.errors import DataError, UsageError
from prebake.precompute.sources.decode import Decoding
from prebake.precompute.sources.known import SourceData, load
from tests.helpers.asked import precompute_command
from tests.helpers.small import bake


def read(where: str | Path) -> SourceData:
    return load(f"webdataset:{where}", Path("unused"), Decoding())


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 6), number, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))


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


def test_a_directory_that_not_all_shards_lie_in_says_of_which_split_they_are(
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


def test_what_macos_adds_is_no_sample(tmp_path: Path) -> None:
    real = {"x/0.png": png(0), "x/0.cls": b"0", "x/1.png": png(1), "x/1.cls": b"1"}
    write_tar(
        tmp_path / "a.tar",
        {each: real.get(each, b"junk") for name in real for each in (name.replace("/", "/._"), name)},
    )
    assert read(tmp_path).splits["train"].labels_N.tolist() == [0, 1]


@pytest.mark.slow
def test_they_are_baked_and_audited_by_commands(written: Path, tmp_path: Path) -> None:
    baked = precompute_command("--dataset", f"webdataset:{written}", "--epochs", 1, "--out", tmp_path)
    assert baked.status == 0, baked.said
    audited = precompute_command("audit", tmp_path / "digits-in-tar", "--dataset", f"webdataset:{written}", "--all")
    assert audited.status == 0, audited.said


def test_an_archive_that_is_cut_or_damaged_is_not_taken_in_part(tmp_path: Path) -> None:
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
        ({"1.png": png(1), "1.cls": b"cat"}, "expected a label from 0 to 65535, found b'cat'"),
        ({"1.png": png(1), "1.cls": b"-1"}, "expected a label from 0 to 65535, found b'-1'"),
        ({"1.png": png(1), "1.cls": b"70000"}, "expected a label from 0 to 65535"),
        ({"1.png": png(1), "1.cls": b"0"}, "expected labels from 0 to at least 1 in train"),
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
