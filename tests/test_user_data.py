"""Data from Python: arrays, map-style data sets, and functions in a user's own file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import prebake
from prebake.errors import DataError, PrebakeError, UsageError
from prebake.loader.shard_set import ShardSet
from prebake.precompute.images import SourceData
from prebake.precompute.sources import load, registry
from prebake.precompute.sources.arrays import source_from
from prebake.precompute.sources.registry import Decoding, absolute_name
from tests.helpers.asked import precompute_command
from tests.helpers.pictures import picture, write_cats
from tests.helpers.small import files

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
LABELS = [0, 1, 2, 0, 1, 2]
FILE = """
import numpy as np

class Stripes:
    classes = ("low", "high")

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return np.full((8, 8), 10 * i, np.uint8), i % 2

def stripes():
    return {"train": Stripes(20), "validation": Stripes(4), "extra": Stripes(2)}

def photos():
    return {"train": Stripes(20), "mirror": True, "classes": ["a", "b"]}

def nothing():
    pass
"""


class Samples(Dataset[Any]):
    """A map-style data set of these samples."""

    def __init__(self, samples: list[Any], **attributes: Any) -> None:
        self.samples, self.read = samples, 0
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        found = self.samples[index]
        if isinstance(found, Exception):
            raise found
        return found


def of(images: Any, labels: Any = LABELS, **attributes: Any) -> Samples:
    return Samples(list(zip(images, labels, strict=True)), **attributes)


def train(data: Any, *arguments: Any, **options: Any) -> SourceData:
    source = source_from(data, *arguments, **options)
    assert np.array_equal(source.splits["train"].images_NHWC, PIXELS)
    return source


@pytest.mark.parametrize(
    "convert",
    [
        Image.fromarray,
        lambda image: image,
        lambda image: torch.from_numpy(image).permute(2, 0, 1),
        lambda image: v2.functional.to_image(Image.fromarray(image)),
    ],
)
def test_images_of_a_data_set_may_have_any_type(convert: Callable[[Any], Any]) -> None:
    source = train(of(map(convert, PIXELS)))
    assert source.splits["train"].labels_N.tolist() == LABELS
    assert source.classes == ("0", "1", "2")


def test_samples_may_be_mappings() -> None:
    samples = [{"image": image, "label": label, "more": 1} for image, label in zip(PIXELS, LABELS, strict=True)]
    train(Samples(samples))


def test_each_sample_is_read_once_and_three_are_checked() -> None:
    data = of(PIXELS)
    train(data)
    assert data.read == len(PIXELS) + 3


def test_a_torchvision_data_set_keeps_its_class_names(tmp_path: Path) -> None:
    folder = write_cats(tmp_path / "cats") / "train"
    source = source_from(ImageFolder(folder))
    expected = load(f"folder:{folder}", tmp_path)
    assert source.classes == ("cat", "dog")
    assert np.array_equal(source.splits["train"].images_NHWC, expected.splits["train"].images_NHWC)


def test_a_subset_keeps_the_names_of_its_data_set() -> None:
    part = Subset(of(PIXELS, classes=["a", "b", "c"], mirror=True), [0, 1, 3])
    source = source_from(part)
    assert (source.classes, source.mirror) == (("a", "b", "c"), True)
    assert "1 classes have no training image: 'c'" in source.summary()


def test_a_tensor_data_set_of_bytes_is_read() -> None:
    images = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    assert train(TensorDataset(images, torch.tensor(LABELS))).splits["train"].labels_N.tolist() == LABELS


def test_a_mapping_of_splits_may_mix_data_sets_and_arrays() -> None:
    data = {"training": of(PIXELS), "eval": (PIXELS[:2], [0, 1]), "classes": ["a", "b", "c"], "mirror": True}
    source = train(data)
    assert (source.classes, source.mirror, list(source.splits)) == (("a", "b", "c"), True, ["train", "test"])
    assert source.splits["test"].labels_N.tolist() == [0, 1]


def test_grey_images_among_coloured_ones_become_coloured() -> None:
    images = [PIXELS[0, ..., 0], PIXELS[1, ..., :1], PIXELS[2], PIXELS[3, ..., 0], PIXELS[4], PIXELS[5]]
    found = source_from(of(images)).splits["train"].images_NHWC
    assert found.shape == PIXELS.shape
    for number, image in enumerate(images):
        assert np.array_equal(found[number], np.broadcast_to(image.reshape(5, 4, -1), (5, 4, 3)))
    assert source_from(of(PIXELS[..., 0])).splits["train"].images_NHWC.shape == (6, 5, 4, 1)


def test_images_of_several_sizes_are_resized_where_asked(tmp_path: Path) -> None:
    for number, size in enumerate([(8, 6), (6, 9), (31, 8), (7, 7)]):
        picture(tmp_path / str(number % 2) / f"{number}.png", number, size)
    data = ImageFolder(tmp_path)
    with pytest.raises(DataError, match=r"sample 1 has 31x8 pixels, the first one 8x6; .* --image-size 64"):
        source_from(data)
    found, expected = source_from(data, how=Decoding(7)), load(f"folder:{tmp_path}", tmp_path, Decoding(7))
    assert np.array_equal(found.splits["train"].images_NHWC, expected.splits["train"].images_NHWC)
    arrays = of([np.asarray(image) for image, _ in data], [0, 0, 1, 1])
    assert np.array_equal(source_from(arrays, how=Decoding(7)).splits["train"].images_NHWC[0],
                          expected.splits["train"].images_NHWC[0])  # fmt: skip


def test_unreadable_samples_are_named_or_left_out() -> None:
    samples = [*zip(PIXELS, LABELS, strict=True)]
    data = Samples([samples[0], OSError("truncated"), *samples[1:]])
    with pytest.raises(DataError, match=r"1 of 7 pictures can't be read: train, sample 1 \(truncated\)"):
        source_from(data)
    assert "left out: 1 pictures that cannot be read" in train(data, how=Decoding(skip_unreadable=True)).summary()


def test_random_transforms_in_a_data_set_are_refused() -> None:
    rng = np.random.default_rng(0)

    class Noisy(Samples):
        def __getitem__(self, index: int) -> Any:
            return rng.integers(0, 256, (5, 4), dtype=np.uint8), 0

    with pytest.raises(DataError, match="sample 0 differs when it is read again; remove random transforms"):
        source_from(Noisy([None] * 6))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


TENSORS = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
WRONG: dict[str, tuple[Any, str]] = {
    "a DataLoader": (DataLoader(TensorDataset(TENSORS)), "found a DataLoader; pass its data set, loader.dataset"),
    "an iterable": (Stream(), "found Stream; an iterable data set .* list"),
    "a generator": (iter([1]), "found list_iterator"),
    "images alone": (PIXELS, "found an array without labels; pass both"),
    "an empty list": ([], "the data set is empty"),
    "no train": ({"test": of(PIXELS)}, "expected a mapping with train, found test"),
    "floats": (of(PIXELS / 255.0), r"sample 0: expected uint8 .*, found float64 \(5, 4, 3\); remove ToTensor"),
    "float tensors": (of(TENSORS / 255), r"sample 0: expected uint8 .*, found float32 \(3, 5, 4\); remove ToTensor"),
    "channels last": (of(torch.zeros(6, 32, 32, 3, dtype=torch.uint8)), r"expected \(C, H, W\), found \(32, 32, 3\)"),
    "channels first": (of(np.zeros((6, 3, 32, 32), np.uint8)), r"expected \(H, W, C\), found \(3, 32, 32\)"),
    "four axes": (of(np.zeros((6, 1, 3, 4, 4), np.uint8)), r"expected \(H, W, C\) or \(H, W\), found \(1, 3, 4, 4\)"),
    "swapped": (Samples([*zip(LABELS, PIXELS, strict=True)]), "image and label are swapped"),
    "swapped PIL": (Samples([(0, Image.new("L", (4, 4)))]), "image and label are swapped"),
    "one-hot": (of(PIXELS, np.eye(6)), r"expected one label, found array.*label.argmax\(\)"),
    "three things": (Samples([(PIXELS[0], 0, 1)]), r"expected \(image, label\), or a mapping .* found tuple of 3"),
    "no labels": (Samples([{"image": PIXELS[0]}]), r"expected a mapping with image and label, found \['image'\]"),
    "an image alone": (Samples([Image.new("L", (4, 4))]), r"expected \(image, label\), .* found Image"),
    "paths": (of(["a.png"] * 6), "expected a PIL image, an array or a tensor, found str"),
    "missing labels": (of(PIXELS, [0, 1, None, 1, None, 0]), "labels of train: 2 of 6 are missing"),
    "mixed labels": (of(PIXELS, [0, 1, "a", 1, 1, 0]), "found text among others"),
    "two kinds": (of([PIXELS[0], PIXELS[0, ..., :2]], [0, 1]), "sample 1 has 2 channels, the first 3"),
    "names that are too few": (
        of(PIXELS, classes=["a", "b"]),
        "found 2, but there are only 2 classes",
    ),
    "names twice": (of(PIXELS, classes=["cat", "cat", "dog"]), "1 names stand there more than once: cat"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_other_data_is_refused_by_what_it_is(wrong: str) -> None:
    data, said = WRONG[wrong]
    with pytest.raises(PrebakeError, match=said):
        source_from(data)


WRONG_ARRAYS: dict[str, tuple[Any, Any, str]] = {
    "channels first": (np.zeros((6, 3, 32, 32), np.uint8), LABELS, r"channels last, .*, found \(6, 3, 32, 32\)"),
    "a tensor": (TENSORS, LABELS, r"found a torch tensor \(6, 3, 5, 4\); .*permute\(0, 2, 3, 1\)"),
    "floats": (PIXELS / 255, LABELS, r"found float64 \(6, 5, 4, 3\); convert images of 0 to 1"),
    "unequal sizes": ([PIXELS[0], PIXELS[0, 1:]], [0, 1], r"images of 2 shapes: \(4, 4, 3\), \(5, 4, 3\)"),
    "swapped": (np.array(LABELS), PIXELS, "images and labels are swapped"),
    "one-hot": (PIXELS, np.eye(6), r"shape \(6, 6\), as of one-hot labels"),
    "a column of labels": (PIXELS, np.zeros((6, 1), int), r"expected shape \(N,\), found \(6, 1\)"),
    "float labels": (PIXELS, np.zeros(6), r"found float64; convert them with labels.astype"),
    "negative labels": (PIXELS, [-1, 0, 1, 0, 1, 0], "found -1 to 1; a negative label often means 'no label'"),
    "too large labels": (PIXELS, [0, 1, 2**40, 1, 1, 1], "expected labels from 0 to 1048575, found 1099511627776"),
    "other objects": (PIXELS, [0, 1, 2j, 1, 1, 1], "expected whole numbers, bool or text, found complex128"),
}


@pytest.mark.parametrize("wrong", WRONG_ARRAYS)
def test_arrays_of_another_layout_are_refused(wrong: str) -> None:
    images, labels, said = WRONG_ARRAYS[wrong]
    with pytest.raises(UsageError, match=said):
        source_from(images, labels)


@pytest.mark.parametrize(
    ("labels", "classes", "numbers", "said"),
    [
        (np.array(LABELS, np.uint64), "012", LABELS, ""),
        (torch.tensor(LABELS), "012", LABELS, ""),
        ([1, 2, 3, 1, 2, 3], "123", LABELS, "labels 1, 2, 3 are numbered 0 to 2"),
        ([0, 3, 3, 0, 3, 0], "0123", [0, 3, 3, 0, 3, 0], "2 classes have no training image: '1', '2'"),
        ([True, False] * 3, ("False", "True"), [1, 0] * 3, ""),
        (["b", "a"] * 3, "ab", [1, 0] * 3, ""),
        (np.array([b"b", b"a"] * 3), "ab", [1, 0] * 3, ""),
        (np.array(["b", "a"] * 3, object), "ab", [1, 0] * 3, ""),
        (["10", "9"] * 3, ("9", "10"), [1, 0] * 3, ""),
    ],
)
def test_labels_may_have_any_type(labels: Any, classes: Any, numbers: list[int], said: str) -> None:
    for data in ((PIXELS, labels), (of(PIXELS, labels),)):
        source = train(*data)
        assert source.classes == tuple(classes)
        assert source.splits["train"].labels_N.tolist() == numbers
        assert said in source.summary()


def test_text_labels_follow_the_order_of_given_names() -> None:
    source = source_from(PIXELS, ["b", "a", "c"] * 2, classes=("c", "b", "a"))
    assert source.splits["train"].labels_N.tolist() == [1, 2, 0] * 2
    with pytest.raises(UsageError, match="2 labels of train are not among the class names: 'c'"):
        source_from(PIXELS, ["b", "a", "c"] * 2, classes=("b", "a"))


@pytest.mark.parametrize(("labels", "test"), [(LABELS, [0, 3]), (["a", "b"] * 3, ["a", "d"])])
def test_a_test_class_that_train_lacks_is_refused(labels: Any, test: Any) -> None:
    with pytest.raises(UsageError, match="test has 1 images of 1 classes that are not in train"):
        source_from(PIXELS, labels, test=(PIXELS[:2], test))


def test_test_images_without_labels_are_refused() -> None:
    with pytest.raises(UsageError, match="test images: found an array without labels"):
        source_from(PIXELS, LABELS, test=PIXELS)


def test_a_class_that_a_validation_split_empties_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prebake.bake(PIXELS, range(6), epochs=1, out=tmp_path / "set", augment="plain", val_fraction=0.2)
    assert "images: train 5 images of 5 classes, val 1 images of 1 classes; 1 classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mirror", "flip", "said"), [(None, "none", True), (False, "none", False), (True, "random", False)]
)
def test_images_are_mirrored_only_where_the_source_allows_it(
    mirror: bool | None, flip: str, said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    source = source_from(PIXELS, LABELS, mirror=mirror)
    assert source.augmentation().flip == flip
    assert ("images are not mirrored; --flip random mirrors them" in capsys.readouterr().err) is said
    assert source.augmentation(flip="random").flip == "random"
    assert source.augmentation("plain").flip == "none"
    assert capsys.readouterr().err == ""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's file of data sets."""
    (tmp_path / "my code").mkdir()
    (tmp_path / "my code" / "own.py").write_text(FILE)
    return tmp_path / "my code" / "own.py"


def test_commands_bake_and_audit_a_function_of_a_file(own: Path, tmp_path: Path) -> None:
    name = f"{own}:stripes"
    baked = precompute_command("--dataset", name, "--epochs", 2, "--out", tmp_path / "out")
    assert baked.status == 0, baked.said
    assert (
        "stripes: train 20 images of 2 classes, test 4 images of 2 classes; left out: what is neither train, val nor "
        "test ('extra')"
    ) in baked.said
    assert "stripes: images are not mirrored; --flip random mirrors them" in baked.said
    data = ShardSet(tmp_path / "out" / "stripes")
    assert (data.classes, data.samples("train"), data.samples("test")) == (("low", "high"), 20, 4)
    assert precompute_command("audit", data.path, "--all", "--dataset", name).status == 0
    before = files(data.path)
    (data.path / "train-e001-000.json").unlink()
    assert precompute_command("repair", data.path, "--dataset", name).status == 0
    assert files(data.path) == before


def test_a_function_may_allow_mirroring_and_name_classes(own: Path, tmp_path: Path) -> None:
    source = load(f"{own}:photos", tmp_path)
    assert (source.name, source.classes, source.mirror) == ("photos", ("a", "b"), True)


def test_a_function_that_returns_nothing_is_refused(own: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a data set, and 'nothing' returned None"):
        load(f"{own}:nothing", tmp_path)


def test_names_become_absolute(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    for name, absolute in (
        ("own.py:stripes", f"{own}:stripes"),
        ("folder:a", f"folder:{own.parent}/a"),
        ("folder:~/a", f"folder:{Path.home()}/a"),
        ("webdataset:{a,b}.tar", f"webdataset:{own.parent}/{{a,b}}.tar"),
        ("hf:ylecun/mnist", "hf:ylecun/mnist"),
        ("package.module:function", "package.module:function"),
        ("mnist", "mnist"),
    ):
        assert absolute_name(name) == absolute


def test_bake_and_audit_take_a_map_style_data_set(tmp_path: Path) -> None:
    prebake.bake(of(PIXELS), test=of(PIXELS[:2], [0, 1]), epochs=2, augment="plain", out=tmp_path / "a")
    prebake.bake(PIXELS, LABELS, test=(PIXELS[:2], [0, 1]), epochs=2, augment="plain", out=tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    prebake.audit(of(PIXELS), test=of(PIXELS[:2], [0, 1]), out=tmp_path / "a", sample=None)
    with pytest.raises(DataError, match=r"source\.sha256\.train"):
        prebake.audit(of(PIXELS[::-1]), test=of(PIXELS[:2], [0, 1]), out=tmp_path / "a")


def test_a_source_registers_itself_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A source of prebake's own is one file that calls `register`."""
    monkeypatch.setattr(registry, "_SOURCES", {**registry._SOURCES})

    def read(argument: str, _data_dir: Path, _how: Decoding) -> SourceData:
        return source_from(PIXELS, LABELS, name=argument)

    registry.register(registry.Source("squares", read, "six squares", "NAME"))
    assert load("squares:mine", tmp_path).name == "mine"
    assert "squares:NAME" in precompute_command("list").said
    with pytest.raises(UsageError, match=r"your own as .*squares:NAME"):
        load("circles:mine", tmp_path)
    with pytest.raises(ValueError, match="a source named 'squares' is registered already"):
        registry.register(registry.Source("squares", read, "six squares", "NAME"))
