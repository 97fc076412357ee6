"""Files that change while they are read: an error or correct data, and never a signal."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import prebake
from prebake.errors import DataError
from prebake.format import verify
from prebake.format.record import Frame
from prebake.format.verify import damage
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream
from tests.attacks.doors import by_batches
from tests.helpers.trials import trial

TAR = "train-e000-000.tar"
SAMPLES = 20_000  # 157 records, more than the ring takes


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard that is not read at one go; read only."""
    rng = np.random.default_rng(0)
    out = tmp_path_factory.mktemp("long") / "set"
    images = rng.integers(0, 256, (SAMPLES, 4, 4, 1), dtype=np.uint8)
    prebake.bake(images, rng.integers(0, 4, SAMPLES), augment="plain", dtype="uint8", epochs=1, out=out)
    return out


def shrink(tar: Path) -> None:
    os.truncate(tar, tar.stat().st_size // 2)


def empty(tar: Path) -> None:
    os.truncate(tar, 0)


def grow(tar: Path) -> None:
    os.truncate(tar, 2**32)


def unlink(tar: Path) -> None:
    tar.unlink()


def replace(tar: Path) -> None:
    tar.with_name("other").write_bytes(bytes(tar.stat().st_size))
    tar.with_name("other").replace(tar)


def overwrite(tar: Path) -> None:
    with tar.open("r+b") as file:
        file.write(bytes(tar.stat().st_size))


# Whether the samples that are still to come lie in the file that is open.
CHANGES: list[tuple[Callable[[Path], None], bool]] = [
    *((shrink, False), (empty, False), (overwrite, False), (grow, True), (unlink, True), (replace, True))
]


@pytest.mark.parametrize("name", ["batches", "stream"])
@pytest.mark.parametrize(("change", "whole"), CHANGES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_file_that_changes_during_reading_gives_no_wrong_data(
    change: Callable[[Path], None],
    whole: bool,
    name: str,
    long: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    expected, _ = by_batches(ShardSet(long))
    points = (1, 100, 500)
    for point in points:
        victim = Path(shutil.copytree(long, tmp_path / f"{point}"))

        def act(victim: Path = victim, point: int = point) -> None:
            data, found = ShardSet(victim), []
            stream = Stream(data, "train", [0], 20)
            try:
                with stream:
                    batches = stream if name == "stream" else data.batches("train", 0, batch_size=20)
                    for number, (images, labels) in enumerate(batches):
                        pairs = zip(np.asarray(images), np.asarray(labels), strict=True)
                        found += [image.tobytes() + label.tobytes() for image, label in pairs]
                        if number == point:
                            change(victim / TAR)
            except DataError as error:
                print(error)  # noqa: T201 - said to the parent
            assert found == expected[: len(found)]
            assert len(found) > 20 * point
            assert whole <= (len(found) == SAMPLES)

        ended = trial(act)
        assert ended.status == 0, ended.said
        if whole:
            assert ended.said == ""
        else:
            assert f"{TAR}, record e000-r00" in ended.said
            assert "the file ended while it was read" in ended.said or "bytes differ from the index" in ended.said
            assert "Rebuild it: prebake repair" in ended.said
    record_property("cases", len(points))


def test_a_file_that_shrinks_during_verification_is_reported(
    long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ShardSet(shutil.copytree(long, tmp_path / "set"))
    framed = verify._framed

    def cut(extent: memoryview, key: str, frame: Frame) -> bool:
        os.truncate(data.path / TAR, 100_000)
        return framed(extent, key, frame)

    monkeypatch.setattr(verify, "_framed", cut)
    assert "the file ended while it was read" in str(damage(data.path, data.plan.shards()[0], data.plan))
