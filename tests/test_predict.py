"""`python -m train predict`: classes of picture files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import prebake
from prebake.loader.shard_set import ShardSet
from prebake.precompute.images import SourceData
from prebake.train.weights import load_weights
from tests.helpers.commands import Command, Ended, the_run


@pytest.fixture(scope="module")
def pictures(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty digits of the test split as PNG files."""
    root = tmp_path_factory.mktemp("pictures")
    paths = [root / f"{number}.png" for number in range(20)]
    for path, image in zip(paths, digits.splits["test"].images_NHWC, strict=False):
        Image.fromarray(image[..., 0]).save(path)
    return paths


def test_predict_agrees_with_the_model_on_the_same_pictures(
    finished: tuple[Ended, Path], pictures: list[Path], digits: SourceData, tmp_path: Path, command: Command
) -> None:
    run = the_run(finished[1])
    ended = command("predict", run, *pictures, "--top", 4, "--json")
    assert ended.code == 0, ended.err
    train, test = digits.splits["train"], digits.splits["test"]
    prebake.bake(
        train.images_NHWC[:200],
        train.labels_N[:200],
        test=(test.images_NHWC[:20], test.labels_N[:20]),
        dtype="uint8",
        epochs=1,
        out=tmp_path / "pixels",
    )
    data = ShardSet(tmp_path / "pixels")
    ((pixels, _),) = data.batches("test", batch_size=20)
    with torch.no_grad():
        images = torch.from_numpy(data.normalize(pixels)).permute(0, 3, 1, 2)
        probabilities = load_weights(run / "weights.safetensors").model(images).softmax(1).numpy()
    answers = list(map(json.loads, ended.out.splitlines()))
    assert [answer["image"] for answer in answers] == list(map(str, pictures))
    best = [next(iter(answer["classes"])) for answer in answers]
    assert best == [str(label) for label in probabilities.argmax(1)]
    for answer, row in zip(answers, probabilities, strict=True):
        assert list(answer["classes"].values()) == pytest.approx(np.sort(row)[::-1][:4], abs=1e-4)
        assert len(answer["classes"]) == 4
        assert sum(answer["classes"].values()) <= 1 + 4 * 5e-5  # each is rounded to four digits


def test_predict_names_classes_with_their_probabilities(
    finished: tuple[Ended, Path], pictures: list[Path], command: Command
) -> None:
    ended = command("predict", the_run(finished[1]), *pictures[:2])
    assert ended.code == 0, ended.err
    for line, path in zip(ended.out.splitlines(), pictures[:2], strict=True):
        named = line.removeprefix(f"{path}: ").split(", ")
        assert len(named) == 3
        shares = []
        for each in named:
            name, share, sign = each.split()
            assert name in "0123456789"
            assert sign == "%"
            shares.append(float(share))
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 100 + 3 * 0.05  # each is rounded to one digit


def test_predict_takes_pictures_of_any_size_and_colour(
    finished: tuple[Ended, Path], pictures: list[Path], tmp_path: Path, command: Command
) -> None:
    with Image.open(pictures[0]) as image:
        image.convert("RGB").save(tmp_path / "coloured.png")
        image.resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    paths = [pictures[0], tmp_path / "coloured.png", tmp_path / "large.png"]
    ended = command("predict", the_run(finished[1]), *paths, "--json", "--top", 10)
    assert ended.code == 0, ended.err
    plain, coloured, large = (json.loads(line)["classes"] for line in ended.out.splitlines())
    assert coloured == plain
    assert large.keys() == plain.keys()
    assert sum(plain.values()) == pytest.approx(1, abs=10 * 5e-5)


def test_predict_reads_pictures_as_they_are_baked(
    finished: tuple[Ended, Path], pictures: list[Path], tmp_path: Path, command: Command
) -> None:
    with Image.open(pictures[0]) as image:
        plain = np.asarray(image)
    Image.fromarray(plain.astype(np.uint16) << 8).save(tmp_path / "16 bits.png")
    turned = Image.fromarray(np.rot90(plain))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    Image.fromarray(np.pad(plain, ((3, 3), (0, 0)))).save(tmp_path / "high.png")
    names = ("16 bits.png", "turned.png", "high.png")
    ended = command("predict", the_run(finished[1]), pictures[0], *(tmp_path / name for name in names), "--json")
    assert ended.code == 0, ended.err
    expected, *others = (json.loads(line)["classes"] for line in ended.out.splitlines())
    assert others == [expected] * 3


def test_predict_refuses_a_file_that_is_no_picture(
    finished: tuple[Ended, Path], pictures: list[Path], tmp_path: Path, command: Command
) -> None:
    broken = tmp_path / "broken.png"
    for content in (b"", b"no picture", pictures[0].read_bytes()[:60]):
        broken.write_bytes(content)
        ended = command("predict", the_run(finished[1]), pictures[0], broken)
        assert ended.code == 3
        assert ended.out.startswith(f"{pictures[0]}: ")
        assert ended.out.count("\n") == 1
        assert f"error: {broken}: can't be read as an image (" in ended.err
        assert "object at" not in ended.err
        assert "<_io" not in ended.err
    assert command("predict", the_run(finished[1]), tmp_path / "nothing.png").code == 3


def test_predict_refuses_a_directory_without_weights(tmp_path: Path, pictures: list[Path], command: Command) -> None:
    ended = command("predict", tmp_path, pictures[0])
    assert (ended.code, ended.out) == (3, "")
    assert f"{tmp_path / 'weights.safetensors'}: no weights here" in ended.err


def test_predict_refuses_to_name_no_classes(
    finished: tuple[Ended, Path], pictures: list[Path], command: Command
) -> None:
    ended = command("predict", the_run(finished[1]), pictures[0], "--top", 0)
    assert ended.code == 2
    assert "--top: expected at least 1, found 0" in ended.err
