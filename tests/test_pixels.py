"""Pixels that lie in a file are those that lie in memory, and memory decides nothing but where they lie."""

import os
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import precompute
from precompute.bake import bake_source
from precompute.images import Images, SourceData, channel_statistics, sha256
from precompute.memory import usual_bytes
from precompute.pixels import Chosen, PixelFile, blocks
from precompute.plan import make_plan
from shards import UsageError
from shards.sizes import size_bytes
from tests.small import IMAGES, LABELS, bake, files
from tests.trials import trial

COUNT = len(IMAGES)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> PixelFile:
    """The small set's images in a file; read only."""
    directory = tmp_path_factory.mktemp("pixels")
    kept = PixelFile.unnamed(IMAGES.shape, directory)
    for first in (200, 0, 100):
        kept.write(first, IMAGES[first : first + 100])
    assert list(directory.iterdir()) == []
    return kept


@given(chosen=st.lists(st.integers(0, COUNT - 1)) | st.slices(COUNT))
def test_a_file_gives_what_an_array_gives(file: PixelFile, chosen: Any) -> None:
    if isinstance(chosen, list):
        chosen = np.array(chosen, np.int64)
    assert np.array_equal(file[chosen], IMAGES[chosen])
    index_N = np.arange(COUNT)[::-3]
    if isinstance(chosen, slice):
        assert np.array_equal(Chosen(file, index_N)[chosen], IMAGES[index_N][chosen])


def test_statistics_and_hash_are_those_of_the_array(file: PixelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = channel_statistics(IMAGES), sha256(Images(IMAGES, LABELS))
    monkeypatch.setattr("precompute.pixels.BLOCK_BYTES", 1000)
    assert len(list(blocks(file))) == 43
    assert (channel_statistics(file), sha256(Images(file, LABELS))) == expected


def test_a_full_disk_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    def act() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        with pytest.raises(OSError, match="large") as error:
            PixelFile.unnamed(IMAGES.shape, tmp_path).write(0, IMAGES)
        assert error.value.filename == str(tmp_path)

    ended = trial(act)
    assert ended.status == 0, ended.said


@pytest.mark.parametrize(
    "options",
    [
        {"encoding": "float32", "val_fraction": 0},
        {"encoding": "uint8", "augment": precompute.Augmentation("a", 1, "black", "alternate", 2, plan="stratified")},
        pytest.param(
            {"augment": precompute.Augmentation("a", 2, "zero", "random", 3, resize="5:1,6")}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"augment": precompute.Augmentation("a", 2, "zero", "random", 3, transform="RandAugment")},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_without_memory_the_bytes_are_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    expected = files(bake(tmp_path / "much", epochs=2, **options).path)
    assert files(bake(tmp_path / "little", epochs=2, memory=1, **options).path) == expected


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory of a process")
@pytest.mark.parametrize("side", [64, 224])
def test_memory_is_bounded_by_records_and_not_by_the_set(side: int, tmp_path: Path) -> None:
    count = 400_000_000 // (side * side * 3)
    pixels = np.lib.format.open_memmap(tmp_path / "pixels.npy", "w+", np.uint8, (count, side, side, 3))
    pixels[:] = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    del pixels

    def act() -> None:
        file = PixelFile(os.open(tmp_path / "pixels.npy", os.O_RDONLY), (count, side, side, 3), tmp_path)
        source = SourceData("set", ("a", "b"), {"train": Images(file, np.arange(count) % 2)})
        augmentation = precompute.augmentation_for("set")
        plan = make_plan(source, augmentation, 1, "uint8", 0)
        bake_source(source, plan, augmentation, tmp_path / "set", workers=2, memory=300_000_000)

    ended = trial(act, seconds=300)
    assert ended.status == 0, ended.said
    assert ended.grown_bytes < 80_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500MB", 500_000_000), ("4GB", 4 * 10**9), ("2GiB", 2**31), ("1.5g", 1_500_000_000), ("7 kb", 7000), ("12", 12)],
)
def test_sizes_are_read_as_people_write_them(text: str, expected: int) -> None:
    assert size_bytes(text, "--memory") == expected


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "1XB", "GB", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--memory: expected a size such as 500MB or 4GB, found '{text}'"):
        size_bytes(text, "--memory")


def test_half_of_a_container_s_limit_is_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    monkeypatch.setattr("precompute.memory.LIMITS", (tmp_path / "memory.max", tmp_path / "none"))
    assert usual_bytes() == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert usual_bytes() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
