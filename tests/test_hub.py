"""Hugging Face data sets, as `save_to_disk` writes them."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prebake.errors import DataError, MachineError
from prebake.precompute.images import SourceData
from prebake.precompute.sources import load
from prebake.precompute.sources.registry import Decoding
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
@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        ([7, 3, 7, 1], "int64", ("1", "3", "7")),
        ([0, 1, 1, 0], "uint8", ("0", "1")),
        ([0, 1, 1, 0], "uint64", ("0", "1")),
        ([True, False, True, False], "bool", ("False", "True")),
        (["b", "a", "b", "a"], "string", ("a", "b")),
        (["b", "a", "b", "a"], "large_string", ("a", "b")),
        (["10", "9", "10", "2"], "string", ("2", "9", "10")),
    ],
)
def test_labels_may_have_any_type(
    labels: list[Any], kind: str, names: tuple[str, ...], datasets: Any, tmp_path: Path
) -> None:
    feature = datasets.Value(kind)
    images = np.arange(4 * 12, dtype=np.uint8).reshape(4, 4, 3, 1)
    kept = as_dataset(datasets, images, labels, feature, "img").remove_columns("comment")
    kept.save_to_disk(tmp_path / "set")
    source = read(tmp_path / "set")
    assert source.classes == names
    assert [source.classes[label] for label in source.splits["train"].labels_N] == [str(label) for label in labels]


@SLOW
def test_other_columns_of_classes_are_reported(datasets: Any, tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["a", "b"])
    kept = as_dataset(datasets, IMAGES, [0, 1, 1], label)
    kept = kept.add_column("coarse", [1, 1, 0]).cast_column("coarse", label)
    kept.save_to_disk(tmp_path / "set")
    assert "left out: the columns coarse beside image and label" in read(tmp_path / "set").summary()


@SLOW
def test_a_test_part_without_labels_is_reported(datasets: Any, tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["a", "b"])
    parts = {"train": [0, 1, 1], "test": [-1, -1, -1]}
    datasets.DatasetDict(
        {name: as_dataset(datasets, IMAGES, labels, label) for name, labels in parts.items()}
    ).save_to_disk(tmp_path / "set")
    source = read(tmp_path / "set")
    assert list(source.splits) == ["train"]
    assert "left out: test, whose labels are not given" in source.summary()


@SLOW
def test_each_part_may_number_the_classes_differently(datasets: Any, tmp_path: Path) -> None:
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
def test_a_part_without_the_columns_is_reported(datasets: Any, tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["a", "b"])
    train = as_dataset(datasets, IMAGES, [0, 1, 1], label)
    parts = {"train": train, "test": train.remove_columns("label"), "valid": train.remove_columns(["image", "comment"])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    source = read(tmp_path / "set")
    assert list(source.splits) == ["train"]
    assert "left out: val, which has no column 'image'" in source.summary()
    assert "left out: test, which has no column 'label'" in source.summary()


@SLOW
@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"train": ["a", "b", None]},
            "labels of train: 1 of 3 are missing",
        ),
        (
            {"train": ["a", "b", "b"], "test": ["a", "c", "d"]},
            "2 images of 2 classes that are not in train: 'c', 'd'",
        ),
        (
            {"train": ["a", "b", "b"], "test": ["c", "c", "c"]},
            "3 images of 1 classes that are not in train: 'c'",
        ),
        ({"train": ["a", "b", "b"], "val": ["a"] * 3, "validation": ["b"] * 3}, "val and validation would be its val"),
    ],
)
def test_labels_and_parts_that_do_not_fit_are_refused(
    parts: dict[str, list[str | None]], said: str, datasets: Any, tmp_path: Path
) -> None:
    kept = {name: as_dataset(datasets, IMAGES, labels, datasets.Value("string")) for name, labels in parts.items()}
    datasets.DatasetDict(kept).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match=said):
        read(tmp_path / "set")


@SLOW
def test_other_data_sets_are_refused(datasets: Any, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"can't be opened .*save_to_disk"):
        read(tmp_path / "nothing")
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).save_to_disk(tmp_path / "texts")
    with pytest.raises(DataError, match="expected one column of pictures, or one named image"):
        read(tmp_path / "texts")
    images = np.zeros((2, 4, 4, 1), np.uint8)
    as_dataset(datasets, images, [0, -1], datasets.ClassLabel(names=["a", "b"])).save_to_disk(tmp_path / "holes")
    with pytest.raises(DataError, match="labels of train: 1 of 2 are missing"):
        read(tmp_path / "holes")
    as_dataset(datasets, images, [0, 0], datasets.ClassLabel(names=["a"])).save_to_disk(tmp_path / "one")
    with pytest.raises(DataError, match="expected at least two classes"):
        read(tmp_path / "one")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MachineError, match=r"hf:NAME needs the package datasets: pip install -e \"\.\[hf\]\""):
        read(tmp_path)
