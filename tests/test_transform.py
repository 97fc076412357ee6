"""Transforms that compute: each sample is what its seed makes of it, whoever bakes it."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import v2

import prebake
from benchmarks.bake import family
from prebake.errors import DataError, MachineError, UsageError
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import Augmentation, draw, transform, transform_seeds
from prebake.precompute.augment.presets import TRANSFORMS, augmentation_for
from tests.helpers.small import IMAGES, LABELS, TEST, bake, files
from tests.helpers.views import choices_at, view

ROOT = Path(__file__).parent.parent
AUGMENTATION = Augmentation("small", 2, "reflect", "random", 2, transform="TrivialAugmentWide")
NAMES = [name for name in TRANSFORMS if name != "none"]


@pytest.fixture(scope="module")
def transformed(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Two epochs under TrivialAugmentWide, baked by two processes; read only."""
    out = tmp_path_factory.mktemp("transformed") / "set"
    return bake(out, augment=AUGMENTATION, epochs=2, val_fraction=0, workers=2)


def by_hand(image_HWC: NDArray[np.generic], name: str, seed: int) -> NDArray[np.uint8]:
    made = eval(f"v2.{name}" + "()" * ("(" not in name), {"v2": v2})  # noqa: S307 - a name is the code that makes it
    torch.manual_seed(seed)
    changed: NDArray[np.uint8] = made(torch.tensor(image_HWC).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    return changed


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_what_its_own_seed_makes_of_it(name: str, channels: int, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (40, 12, 10, channels), dtype=np.uint8)
    seeds = transform_seeds(3, 1, 40)
    found = transform(name, images, seeds)
    for image, seed, changed in zip(images, seeds.tolist(), found, strict=True):
        assert np.array_equal(changed, by_hand(image, name, seed))
    assert sum(not np.array_equal(a, b) for a, b in zip(images, found, strict=True)) > 15
    assert np.array_equal(transform(name, images[7:9], seeds[7:9]), found[7:9])


def test_torch_s_own_generator_and_threads_are_left_as_they_were() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    transform("RandAugment", IMAGES[:3], transform_seeds(0, 0, 3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_seeds_differ_between_images_epochs_and_sets() -> None:
    seeds = [transform_seeds(seed, epoch, 500) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(np.unique(np.concatenate(seeds))) == 3000
    assert np.array_equal(transform_seeds(1, 2, 100), seeds[5][:100])


def test_every_sample_is_cropped_mirrored_transformed_encoded_and_cut_out(transformed: ShardSet) -> None:
    source = transformed.plan.source
    moved_only = Augmentation("moved", 2, "reflect", "random", 0)
    for epoch in range(2):
        drawn, seeds = draw(AUGMENTATION, 0, epoch, 0, 300, (6, 7, 3)), transform_seeds(0, epoch, 300)
        for record in transformed.records("train", epoch):
            images, labels, index = record.images_NHWC, record.labels_N, record.index_N
            assert labels.tolist() == LABELS[index].tolist()
            for image, i in zip(images, index.tolist(), strict=True):
                choices = choices_at(drawn, i)
                moved = view(IMAGES[i], moved_only, choices, source.mean, source.std, "uint8")
                changed = by_hand(moved, "TrivialAugmentWide", int(seeds[i]))
                made = ((changed / 255 - source.mean) / np.array(source.std)).astype(np.float16)
                y, x = int(drawn.cut_y[i]), int(drawn.cut_x[i])
                made[y : y + 2, x : x + 2] = 0
                assert image.tobytes() == made.tobytes()


def test_the_test_split_is_not_transformed(transformed: ShardSet) -> None:
    ((images, _),) = transformed.batches("test", batch_size=100)
    source = transformed.plan.source
    assert images.tobytes() == ((TEST[0] / 255 - source.mean) / source.std).astype(np.float16).tobytes()


@pytest.mark.slow
def test_one_process_and_an_interrupted_bake_write_the_same_bytes(transformed: ShardSet, tmp_path: Path) -> None:
    out = Path(shutil.copytree(transformed.path, tmp_path / "set"))
    for index in out.glob("t*.json"):
        index.unlink()
    for left_by_a_kill in ("pixels.part", "labels.00112233aabbccdd.part", "train-e000-000.tar.0011223344556677.part"):
        (out / left_by_a_kill).write_bytes(b"half")
    bake(out, augment=AUGMENTATION, epochs=2, val_fraction=0, workers=1)
    assert files(out) == files(transformed.path)


def test_the_manifest_names_the_libraries_and_others_are_refused(
    transformed: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = transformed.plan.augmentation
    assert re.fullmatch(r"torch \d\S*, torchvision \d\S*", found["library"])
    assert found["transform"] == "TrivialAugmentWide"
    assert "library" not in augmentation_for().to_json()
    monkeypatch.setattr("prebake.precompute.augment.presets.version", lambda _: "9.9")
    with pytest.raises(DataError, match=r"augmentation\.library is '.*' there, 'torch 9\.9, torchvision 9\.9'"):
        bake(transformed.path, augment=AUGMENTATION, epochs=2, val_fraction=0)


def test_an_unknown_transform_is_refused_with_a_list() -> None:
    with pytest.raises(UsageError, match=r"none, TrivialAugmentWide, RandAugment, .*, found 'AugMix'"):
        Augmentation("any", 0, "zero", "none", 0, transform="AugMix")


def test_a_transform_is_for_one_or_three_channels(tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8, 4), np.uint8)
    with pytest.raises(UsageError, match="TrivialAugmentWide is for images of 1 or 3 channels, found 4"):
        prebake.bake(images, np.arange(4), augment=AUGMENTATION, epochs=1, out=tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_a_script_without_a_guard_is_told_of_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, numpy as np, prebake\n"
        "images = np.zeros((4, 8, 8, 3), np.uint8)\n"
        "prebake.bake(images, np.arange(4), augment='rand-augment', epochs=1, workers=1, out=sys.argv[1])\n"
    )
    command = [sys.executable, str(script), str(tmp_path / "set")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'must call bake() under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_last_line_counts_all_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bake(tmp_path / "set", augment=AUGMENTATION, epochs=1, val_fraction=0, test=None, workers=1)
    assert "train epoch 0 done, 300 of 300 images" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for a process's children")
def test_a_killed_process_ends_the_bake_and_the_next_one_goes_on_to_the_same_bytes(
    transformed: ShardSet, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    out = tmp_path / "set"
    options = {"augment": AUGMENTATION, "epochs": 2, "val_fraction": 0, "workers": 1}
    killed: list[int] = []
    before = set(family(os.getpid()))

    def begun() -> bool:
        with contextlib.suppress(FileNotFoundError):  # it has just got its name
            return any(part.stat().st_size for part in out.glob("train-e000-000.tar.*.part"))
        return True

    def kill() -> None:
        while not begun():
            time.sleep(0.001)
        killed.extend(set(family(os.getpid())) - before)
        for process in killed:
            os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(MachineError, match=r"a worker process was killed.* The same command resumes") as caught:
        bake(out, **options)
    killer.join()
    assert killed
    assert caught.value.exit_code == 4
    assert {"manifest.json", "test-000.tar", "test-000.json"} <= set(files(out)) < set(files(transformed.path))
    bake(out, **options)
    assert files(out) == files(transformed.path)
    record_property("cases", 1)


def test_a_system_without_semaphores_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: object) -> None:
        raise NotImplementedError("This Python build lacks multiprocessing.synchronize")

    monkeypatch.setattr("prebake.precompute.workers.ProcessPoolExecutor", without)
    with pytest.raises(MachineError, match=r"need semaphores, and the system gives none .*lacks"):
        bake(tmp_path / "set", augment=AUGMENTATION, epochs=1, workers=1)
