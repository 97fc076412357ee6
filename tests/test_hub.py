"""Data sets of Hugging Face datasets, as save_to_disk writes them."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prebake.errors import DataError, MachineError
from prebake.precompute.sources.decode import Decoding
from prebake.precompute.sources.known import SourceData, load
from tests.helpers.asked import precompute_command

SLOW = pytest.mark.slow  # importing datasets takes seconds
IMAGES = np.zeros((3, 4, 4, 1), np.uint8)


@pytest.fixture(scope="module")
def datasets() -> Any:
    return pytest.importorskip("datasets")


def read(path: Path) -> SourceData:
    return load(f"hf:{path}", Path("unused"), Decoding())


def as_dataset(datasets: Any, images: Any, labels: Any, feature: Any, column: str = "image") -> Any:
    features = datasets.Features({column: datasets.Image(), "label": feature, "comment": datasets.Value("string")})
    pictures = [Image.fromarray(image.squeeze()) for image in images]
    rows = {column: pictures, "label": labels, "comment": ["x"] * len(pictures)}
    return datasets.Dataset.from_dict(rows, features=features)


@SLOW
@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_a_saved_data_set_is_baked_and_audited(
    held_out: str, datasets: Any, digits: SourceData, tmp_path: Path
) -> None:
    label = datasets.ClassLabel(names=list(digits.classes))
    parts = {
        name: as_dataset(datasets, part.images_NHWC[:90], part.labels_N[:90], label)
        for name, part in zip(("train", held_out), digits.splits.values(), strict=True)
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "Ziffern 8x8")
    source = read(tmp_path / "Ziffern 8x8")
    assert (source.name, source.classes) == ("Ziffern-8x8", digits.classes)
    for split, part in digits.splits.items():
        assert np.array_equal(source.splits[split].images_NHWC, part.images_NHWC[:90])
        assert np.array_equal(source.splits[split].labels_N, part.labels_N[:90])
    named = f"hf:{tmp_path / 'Ziffern 8x8'}"
    baked = precompute_command("--dataset", named, "--epochs", 1, "--out", tmp_path)
    assert baked.status == 0, baked.said
    assert precompute_command("audit", tmp_path / "Ziffern-8x8", "--all", "--dataset", named).status == 0


@SLOW
@pytest.mark.parametrize(("labels", "names"), [([7, 3, 7, 1], ("1", "3", "7")), (["b", "a", "b", "a"], ("a", "b"))])
def test_labels_may_be_numbers_or_words(
    labels: list[Any], names: tuple[str, ...], datasets: Any, tmp_path: Path
) -> None:
    feature = datasets.Value("int64" if isinstance(labels[0], int) else "string")
    images = np.arange(4 * 12, dtype=np.uint8).reshape(4, 4, 3, 1)
    kept = as_dataset(datasets, images, labels, feature, "img").remove_columns("comment")
    kept.save_to_disk(tmp_path / "set")
    source = read(tmp_path / "set")
    assert source.classes == names
    assert [source.classes[label] for label in source.splits["train"].labels_N] == [str(label) for label in labels]


@SLOW
def test_a_test_part_without_labels_is_left_out(
    datasets: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = datasets.ClassLabel(names=["a", "b"])
    parts = {"train": [0, 1, 1], "test": [-1, -1, -1]}
    datasets.DatasetDict(
        {name: as_dataset(datasets, IMAGES, labels, label) for name, labels in parts.items()}
    ).save_to_disk(tmp_path / "set")
    assert list(read(tmp_path / "set").splits) == ["train"]
    assert "test is left out, since its labels are not given" in capsys.readouterr().err


@SLOW
def test_parts_may_number_the_classes_each_in_its_own_way(datasets: Any, tmp_path: Path) -> None:
    """As `DatasetDict.class_encode_column` leaves them: a part that lacks a class numbers the others anew."""
    words = {"train": ["cat", "dog", "eel"], "validation": ["eel", "cat", "cat"], "test": ["dog", "eel", "eel"]}
    parts = {
        name: as_dataset(datasets, IMAGES, labels, datasets.Value("string")).class_encode_column("label")
        for name, labels in words.items()
    }
    assert parts["test"]["label"][:] == [0, 1, 1]
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    source = read(tmp_path / "set")
    assert source.classes == ("cat", "dog", "eel")
    for split, part in (("train", "train"), ("val", "validation"), ("test", "test")):
        assert [source.classes[label] for label in source.splits[split].labels_N] == words[part]


@SLOW
def test_a_part_without_the_columns_is_left_out(
    datasets: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = datasets.ClassLabel(names=["a", "b"])
    train = as_dataset(datasets, IMAGES, [0, 1, 1], label)
    parts = {"train": train, "test": train.remove_columns("label"), "valid": train.remove_columns(["image", "comment"])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    assert list(read(tmp_path / "set").splits) == ["train"]
    said = capsys.readouterr().err
    assert "test is left out, since it has no column 'label'" in said
    assert "val is left out, since it has no column 'image'" in said


@SLOW
@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"train": ["a", "b", None]},
            "train has 1 pictures whose label in 'label' is missing or .*: None",
        ),
        ({"train": ["a", "b", "b"], "test": ["a", "c", "d"]}, "test has 2 pictures .* none of train's: 'c', 'd'"),
        ({"train": ["a", "b", "b"], "test": ["c", "c", "c"]}, "test has 3 pictures .* none of train's: 'c'"),
        ({"train": ["a", "b", "b"], "val": ["a"] * 3, "validation": ["b"] * 3}, "val and validation would be its val"),
    ],
)
def test_labels_and_parts_that_would_be_lost_are_refused(
    parts: dict[str, list[str | None]], said: str, datasets: Any, tmp_path: Path
) -> None:
    kept = {name: as_dataset(datasets, IMAGES, labels, datasets.Value("string")) for name, labels in parts.items()}
    datasets.DatasetDict(kept).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match=said):
        read(tmp_path / "set")


@SLOW
def test_what_is_no_data_set_of_pictures_is_said(datasets: Any, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"can't be opened .*save_to_disk"):
        read(tmp_path / "nothing")
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).save_to_disk(tmp_path / "texts")
    with pytest.raises(DataError, match="expected one column of pictures, or one named image"):
        read(tmp_path / "texts")
    images = np.zeros((2, 4, 4, 1), np.uint8)
    as_dataset(datasets, images, [0, -1], datasets.ClassLabel(names=["a", "b"])).save_to_disk(tmp_path / "holes")
    with pytest.raises(DataError, match="1 pictures whose label in 'label' is missing or none of train's: None"):
        read(tmp_path / "holes")
    as_dataset(datasets, images, [0, 0], datasets.ClassLabel(names=["a"])).save_to_disk(tmp_path / "one")
    with pytest.raises(DataError, match="expected at least two classes"):
        read(tmp_path / "one")


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MachineError, match=r"hf:NAME needs the package datasets: pip install -e \"\.\[hf\]\""):
        read(tmp_path)
