"""Data sets by name, their exact statistics, held-out images, and missing or damaged files."""

import decimal
import fractions
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from prebake.errors import DataError, UsageError
from prebake.precompute.images import Images, SourceData, channel_statistics, hold_out
from prebake.precompute.sources import load


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every download fail as it does without a network."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def numbered(count: int) -> SourceData:
    """Return a source whose images and labels tell their own index."""
    index = np.arange(count)
    images = Images(index.astype(np.uint8)[:, None, None, None] + np.zeros((1, 2, 2, 1), np.uint8), index)
    return SourceData("numbered", ("a",), {"train": images, "test": images})


def multiset(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> list[bytes]:
    return sorted(image.tobytes() + int(label).to_bytes(1, "big") for image, label in zip(images, labels, strict=True))


def test_digits_are_those_of_scikit_learn_in_two_splits(digits: SourceData) -> None:
    train, test = digits.splits["train"], digits.splits["test"]
    assert train.images_NHWC.shape == (1500, 8, 8, 1)
    assert test.images_NHWC.shape == (297, 8, 8, 1)
    bunch = load_digits()
    expected = np.array([[min(16 * int(v), 255) for v in image.reshape(-1)] for image in bunch.images], np.uint8)
    ours = np.concatenate([train.images_NHWC, test.images_NHWC]).reshape(1797, 64)
    labels = np.concatenate([train.labels_N, test.labels_N])
    assert multiset(ours, labels) == multiset(expected, bunch.target)
    assert (ours.dtype, labels.dtype) == (np.dtype(np.uint8), np.dtype(np.int64))
    assert ours.max() == 255
    assert digits.classes == tuple("0123456789")


def test_digits_are_split_alike_each_time(digits: SourceData) -> None:
    again = load("digits", Path("unused"))
    for split, images in digits.splits.items():
        assert np.array_equal(images.images_NHWC, again.splits[split].images_NHWC)
        counts = np.bincount(images.labels_N, minlength=10)
        assert counts.min() > len(images.labels_N) / 20


@given(
    pixels=st.lists(st.integers(0, 255), min_size=2, max_size=60), times=st.integers(1, 50), channels=st.integers(1, 3)
)
@example(pixels=[0, 255], times=1, channels=1)
@example(pixels=[7, 7], times=9, channels=2)
@example(pixels=[254] * 49 + [255], times=50, channels=1)
def test_mean_and_std_are_rounded_exactly(pixels: list[int], times: int, channels: int) -> None:
    values = [[(pixel + 3 * channel) % 256 for pixel in pixels] for channel in range(channels)]
    images = np.array(values, np.uint8).T.reshape(len(pixels), 1, 1, channels).repeat(times, axis=0)
    means, stds = channel_statistics(images)
    assert len(means) == len(stds) == channels
    for channel, mean, std in zip(values, means, stds, strict=True):
        exact = fractions.Fraction(sum(channel), 255 * len(channel))
        assert mean == exact.numerator / exact.denominator
        squares = (fractions.Fraction(value * value, 255**2) for value in channel)
        variance = sum(squares, fractions.Fraction()) / len(channel) - exact**2
        with decimal.localcontext() as context:
            context.prec = 80
            root = (decimal.Decimal(variance.numerator) / decimal.Decimal(variance.denominator)).sqrt()
        assert std == (float(root) if variance else 1.0)


def test_statistics_agree_with_numpy_on_digits(digits: SourceData) -> None:
    images = digits.splits["train"].images_NHWC
    (mean,), (std,) = channel_statistics(images)
    assert mean == pytest.approx((images / 255).mean(), rel=1e-12)
    assert std == pytest.approx((images / 255).std(), rel=1e-12)


@given(count=st.integers(2, 250), fraction=st.floats(0.01, 0.99))
def test_no_image_is_lost_by_holding_out(count: int, fraction: float) -> None:
    wanted = round(fraction * count)
    if not 0 < wanted < count:
        with pytest.raises(UsageError, match="--val-fraction"):
            hold_out(numbered(count), fraction)
        return
    cut = hold_out(numbered(count), fraction)
    train, val = cut.splits["train"], cut.splits["val"]
    assert len(val.labels_N) == wanted
    assert sorted([*train.labels_N.tolist(), *val.labels_N.tolist()]) == list(range(count))
    for images in (train, val):
        assert images.images_NHWC[:, 0, 0, 0].tolist() == images.labels_N.tolist()
        assert images.labels_N.tolist() == sorted(images.labels_N.tolist())
    assert cut.splits["test"] is not None
    assert np.array_equal(hold_out(numbered(count), fraction).splits["val"].labels_N, val.labels_N)


def test_held_out_images_come_from_all_parts() -> None:
    val = hold_out(numbered(200), 0.2).splits["val"].labels_N
    assert [int(((val >= start) & (val < start + 50)).any()) for start in range(0, 200, 50)] == [1, 1, 1, 1]


def test_a_fraction_of_zero_holds_nothing_out() -> None:
    source = numbered(10)
    assert hold_out(source, 0.0).splits == source.splits


@pytest.mark.parametrize("fraction", [1.0, -0.1, 2.0, 0.01, 0.99, float("nan"), float("inf")])
def test_a_fraction_that_empties_a_split_is_refused(fraction: float) -> None:
    with pytest.raises(UsageError, match="--val-fraction: expected a fraction between 0 and 1 of 10 images"):
        hold_out(numbered(10), fraction)


def test_an_unknown_name_is_refused_with_a_list(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"no data set named 'imagenet'; there are digits, .* own as folder:PATH, .*FILE.py:NAME",
    ):
        load("imagenet", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist", "kmnist", "emnist", "svhn"])
def test_missing_files_are_reported_with_a_remedy(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{name}: no usable files.*--data-dir.*--dataset digits"):
        load(name, tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "train", "test", "first_classes"),
    [
        ("cifar10", (50_000, 32, 32, 3), (10_000, 32, 32, 3), ("airplane", "automobile")),
        ("mnist", (60_000, 28, 28, 1), (10_000, 28, 28, 1), ("0 - zero", "1 - one")),
        ("fashion-mnist", (60_000, 28, 28, 1), (10_000, 28, 28, 1), ("T-shirt/top", "Trouser")),
    ],
)
def test_known_data_sets_have_their_shapes_and_counts(
    name: str,
    train: tuple[int, ...],
    test: tuple[int, ...],
    first_classes: tuple[str, ...],
    data_dir: Path,
    request: pytest.FixtureRequest,
) -> None:
    source: SourceData = request.getfixturevalue("cifar10") if name == "cifar10" else load(name, data_dir)
    assert source.classes[:2] == first_classes
    assert len(source.classes) == 10
    for split, shape in (("train", train), ("test", test)):
        images = source.splits[split]
        assert images.images_NHWC.shape == shape
        assert images.images_NHWC.dtype == np.uint8
        assert images.images_NHWC.flags.c_contiguous
        assert images.labels_N.dtype == np.int64
        counts = np.bincount(images.labels_N)
        assert len(counts) == 10
        if name != "mnist":
            assert set(counts.tolist()) == {shape[0] // 10}


def linked(original: Path, copy: Path, cut: str, length: int) -> None:
    """Link all files of a directory into a new one, but for a copy of one that is cut off at a length."""
    copy.mkdir(parents=True)
    for path in original.iterdir():
        if path.name == cut:
            shutil.copy(path, copy / cut)
            with (copy / cut).open("r+b") as file:
                file.truncate(length)
        elif path.is_file():
            (copy / path.name).symlink_to(path)


@pytest.mark.parametrize(
    "file", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
)
@pytest.mark.parametrize("length", [0, 4, 1000])
def test_a_truncated_mnist_file_is_a_data_error(file: str, length: int, data_dir: Path, tmp_path: Path) -> None:
    linked(data_dir / "MNIST" / "raw", tmp_path / "MNIST" / "raw", file, length)
    with pytest.raises(DataError, match=r"mnist: .*--data-dir"):
        load("mnist", tmp_path)


@pytest.mark.parametrize(("file", "length"), [("data_batch_3", 100), ("test_batch", 0), ("batches.meta", 100)])
def test_a_truncated_cifar_batch_is_a_data_error(file: str, length: int, data_dir: Path, tmp_path: Path) -> None:
    linked(data_dir / "cifar-10-batches-py", tmp_path / "cifar-10-batches-py", file, length)
    with pytest.raises(DataError, match=r"cifar10: .*--data-dir"):
        load("cifar10", tmp_path)


def test_exchanged_mnist_files_are_a_data_error(data_dir: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    linked(data_dir / "MNIST" / "raw", raw, "train-labels-idx1-ubyte", 0)
    (raw / "train-labels-idx1-ubyte").unlink()
    (raw / "train-labels-idx1-ubyte").symlink_to(data_dir / "MNIST" / "raw" / "t10k-labels-idx1-ubyte")
    with pytest.raises(DataError, match="60000 images, but 10000 labels"):
        load("mnist", tmp_path)


def write_idx(path: Path, values: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes())


@pytest.mark.parametrize(
    ("name", "raw", "parts", "classes"),
    [
        ("kmnist", "KMNIST/raw", ("train", "t10k"), ("o", "ki")),
        ("emnist", "EMNIST/raw", ("emnist-balanced-train", "emnist-balanced-test"), ("0", "1")),
    ],
)
def test_relatives_of_mnist_are_read_from_their_files(
    name: str, raw: str, parts: tuple[str, str], classes: tuple[str, str], tmp_path: Path, rng: np.random.Generator
) -> None:
    images, labels = rng.integers(0, 256, (2, 5, 28, 28)), np.array([[0, 1, 2, 1, 0], [2, 2, 1, 0, 1]])
    for number, part in enumerate(parts):
        write_idx(tmp_path / raw / f"{part}-images-idx3-ubyte", images[number])
        write_idx(tmp_path / raw / f"{part}-labels-idx1-ubyte", labels[number])
    source = load(name, tmp_path)
    assert source.classes[:2] == classes
    for number, split in enumerate(("train", "test")):
        assert np.array_equal(source.splits[split].images_NHWC[..., 0], images[number])
        assert np.array_equal(source.splits[split].labels_N, labels[number])


def test_svhn_is_read_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    monkeypatch.setattr("torchvision.datasets.SVHN._check_integrity", lambda _: True)
    images = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    for split in ("train", "test"):
        about = {"X": images.transpose(1, 2, 3, 0), "y": np.array([[10], [1], [2], [9], [10]])}
        scipy_io.savemat(tmp_path / f"{split}_32x32.mat", about)
    source = load("svhn", tmp_path)
    assert source.classes == tuple("0123456789")
    assert np.array_equal(source.splits["train"].images_NHWC, images)
    assert source.splits["test"].labels_N.tolist() == [0, 1, 2, 9, 0]
