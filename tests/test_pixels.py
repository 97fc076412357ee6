"""Pixels in a file equal pixels in memory, and a bake with little memory writes the same bytes."""

import os
import resource
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prebake
from prebake.errors import UsageError
from prebake.format.manifest import Shard
from prebake.precompute.augment import Draw, ViewStore, draw, torchvision_transform
from prebake.precompute.augmenters import augmenter_for
from prebake.precompute.bake import bake_source
from prebake.precompute.dask import SharedSet, write_there
from prebake.precompute.images import Images, SourceData, channel_statistics, sha256
from prebake.precompute.memory import usual_bytes
from prebake.precompute.pixels import Chosen, PixelFile, blocks
from prebake.precompute.plan import make_plan
from prebake.precompute.sources.registry import Decoding
from prebake.sizes import size_bytes
from tests.helpers.small import AUGMENTATION, IMAGES, LABELS, bake, files, source_and_plan
from tests.helpers.trials import trial

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
    monkeypatch.setattr("prebake.precompute.pixels.BLOCK_BYTES", 1000)
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
        {"dtype": "float32", "val_fraction": 0},
        {"dtype": "uint8", "augment": prebake.Augmentation("a", 1, "black", "alternate", 2)},
        pytest.param(
            {"augment": prebake.Augmentation("a", 2, "zero", "random", 3, resize="5:1,6")}, marks=pytest.mark.slow
        ),
        pytest.param(
            {
                "augment": prebake.Augmentation(
                    "a", 2, "zero", "random", 3, transform=torchvision_transform("RandAugment")
                )
            },
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
        augmentation = prebake.augmentation_for()
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
def test_an_invalid_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--memory: expected a size such as 500MB or 4GB, found '{text}'"):
        size_bytes(text, "--memory")


@pytest.mark.parametrize(
    ("groups", "limits", "usual"),
    [
        ("0::/\n", {"memory.max": "1000000"}, 500_000),  # a container
        ("0::/\n", {"memory.max": "max"}, None),
        ("0::/slurm/job:1/step\n", {"slurm/memory.max": "max", "slurm/job:1/memory.max": "600000"}, 300_000),
        ("0::/user/tool.scope\n", {"user/memory.max": "800000", "user/tool.scope/memory.max": "900000"}, 400_000),
        (
            "5:cpu:/\n4:cpuset,memory:/slurm/job\n0::/\n",
            {"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/slurm/job/memory.limit_in_bytes": "70000"},
            35_000,
        ),
        ("4:memory:/not/seen/here\n", {"memory/memory.limit_in_bytes": "5000"}, 2_500),
        ("0::/\n", {"other/memory.max": "5000"}, None),
        (None, {}, None),
    ],
)
def test_half_of_what_limits_this_process_is_usual(
    groups: str | None, limits: dict[str, str], usual: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits of control groups: of its own and of those above it, in both versions."""
    if groups is not None:
        (tmp_path / "cgroup").write_text(groups)
    for name, limit in limits.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit}\n")
    monkeypatch.setattr("prebake.precompute.memory.GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr("prebake.precompute.memory.LIMITS", tmp_path / "fs")
    assert usual_bytes() == (usual or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def test_threads_that_begin_an_epoch_together_draw_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, threads, barrier = [], 4, threading.Barrier(4)

    def drawing(*arguments: Any) -> Draw:
        drawn.append(arguments)
        time.sleep(0.05)
        return draw(*arguments)

    def begin(shard: Shard) -> None:
        barrier.wait()
        next(augmenter.records(shard))

    source, plan = source_and_plan(epochs=1, seed=11)
    (shard,) = plan.shards("train")
    augmenter = augmenter_for(source, AUGMENTATION, plan, shard)
    monkeypatch.setattr("prebake.precompute.augmenters.draw", drawing)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(begin, [shard] * threads))
    assert len(drawn) == 1


@pytest.mark.parametrize("where", ["here", "on a worker"])
def test_memory_of_a_split_is_freed_before_the_next_one(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    held = []

    class Watched(ViewStore):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            alive.add(self)

    def resident() -> int:
        held.append(len(alive))
        return 0

    data = bake(tmp_path / "set", epochs=1)
    source, _ = source_and_plan(epochs=1)
    for path in data.path.glob("*-*"):
        path.unlink()
    monkeypatch.setattr("prebake.precompute.augmenters.ViewStore", Watched)
    monkeypatch.setattr("prebake.precompute.augmenters.resident_bytes", resident)
    if where == "here":
        bake(data.path, epochs=1)
    else:
        monkeypatch.setattr("prebake.precompute.dask.load", lambda *_: source)
        shared = SharedSet(str(tmp_path), tmp_path, Decoding(), data.path, data.plan.identity, None)
        for shard in data.plan.shards():
            write_there(shared, shard)
    assert data.missing() == []
    assert held == [0, 0, 0]  # test, val and train
