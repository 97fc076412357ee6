"""Transforms: each view depends on image and seed, in any process; all else is refused."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import v2

import prebake
from benchmarks.bake import family
from prebake.errors import DataError, MachineError, UsageError
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import (
    AUGMENTATIONS,
    Augmentation,
    Pipeline,
    augmentation_for,
    draw,
    torchvision_transform,
    transform_seeds,
)
from tests.helpers.small import IMAGES, LABELS, TEST, bake, files
from tests.helpers.views import choices_at, view

ROOT = Path(__file__).parent.parent
AUGMENTATION = Augmentation("small", 2, "reflect", "random", 2, transform=torchvision_transform("TrivialAugmentWide"))
PRESETS = [name for name, preset in AUGMENTATIONS.items() if preset.transform is not None]
ARRAYS: dict[str, Any] = {"data": IMAGES, "labels": LABELS, "epochs": 1, "workers": 1}


@pytest.fixture(scope="module")
def transformed(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Two epochs under TrivialAugmentWide, baked by two processes; read only."""
    out = tmp_path_factory.mktemp("transformed") / "set"
    return bake(out, augment=AUGMENTATION, epochs=2, val_fraction=0, workers=2)


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes take seconds to import torch."""
    monkeypatch.setattr(Pipeline, "is_picklable", lambda _: False)


def train_images(out: Path, epoch: int = 0) -> NDArray[Any]:
    """Return the images of an epoch in the order of the source."""
    records = [(each.index_N.copy(), each.images_NHWC.copy()) for each in ShardSet(out).records("train", epoch)]
    order = np.argsort(np.concatenate([index for index, _ in records]))
    return np.concatenate([images for _, images in records])[order]


def columns(count: int) -> dict[str, NDArray[np.int64]]:
    return {"index": np.arange(count), "label": np.arange(count)}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_view_depends_on_its_own_seed_only(name: str, channels: int, rng: np.random.Generator) -> None:
    images, seeds = rng.integers(0, 256, (40, 12, 10, channels), dtype=np.uint8), transform_seeds(3, 1, 40)
    pipeline = AUGMENTATIONS[name].transform
    assert pipeline is not None
    found = pipeline.apply(images.copy(), seeds, columns(40))
    for image, seed, view_HWC in zip(images, seeds.tolist(), found, strict=True):
        torch.manual_seed(seed)
        expected = pipeline.transform(torch.tensor(image).permute(2, 0, 1)).permute(1, 2, 0).numpy()
        assert np.array_equal(view_HWC, expected)
    assert sum(not np.array_equal(a, b) for a, b in zip(images, found, strict=True)) > 15


def test_generators_and_threads_are_left_as_they_were() -> None:
    def draw_all(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return image + np.uint8(random.randrange(9) + np.random.randint(9) + torch.randint(9, (1,)).item())  # noqa: NPY002, S311 - as users do

    def state() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()  # type: ignore[index]  # noqa: NPY002 - as above

    before, threads = state(), torch.get_num_threads()
    one = Pipeline.of(draw_all).apply(IMAGES[:30].copy(), transform_seeds(0, 0, 30), columns(30))
    random.seed(7)
    two = Pipeline.of(draw_all).apply(IMAGES[:30].copy(), transform_seeds(0, 0, 30), columns(30))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert len({int(a[0, 0, 0]) - int(b[0, 0, 0]) for a, b in zip(one, IMAGES, strict=False)}) > 5
    random.setstate(before[0])
    assert (state(), torch.get_num_threads()) == (before, threads)


def test_seeds_differ_between_images_epochs_and_sets() -> None:
    seeds = [transform_seeds(seed, epoch, 500) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(np.unique(np.concatenate(seeds))) == 3000
    assert np.array_equal(transform_seeds(1, 2, 100), seeds[5][:100])


def test_crop_flip_transform_encode_cutout_in_this_order(transformed: ShardSet) -> None:
    source = transformed.plan.source
    moved_only = Augmentation("moved", 2, "reflect", "random", 0)
    pipeline = AUGMENTATION.transform
    assert pipeline is not None
    for epoch in range(2):
        drawn, seeds = draw(AUGMENTATION, 0, epoch, 0, 300, (6, 7, 3)), transform_seeds(0, epoch, 300)
        for record in transformed.records("train", epoch):
            images, labels, index = record.images_NHWC, record.labels_N, record.index_N
            assert labels.tolist() == LABELS[index].tolist()
            for image, i in zip(images, index.tolist(), strict=True):
                choices = choices_at(drawn, i)
                moved = view(IMAGES[i], moved_only, choices, source.mean, source.std, "uint8")
                torch.manual_seed(int(seeds[i]))
                changed = pipeline.transform(torch.tensor(moved).permute(2, 0, 1)).permute(1, 2, 0).numpy()
                made = ((changed / 255 - source.mean) / np.array(source.std)).astype(np.float16)
                y, x = int(drawn.cut_y[i]), int(drawn.cut_x[i])
                made[y : y + 2, x : x + 2] = 0
                assert image.tobytes() == made.tobytes()


def test_the_test_split_is_not_transformed(transformed: ShardSet) -> None:
    ((images, _),) = transformed.batches("test", batch_size=100)
    source = transformed.plan.source
    assert images.tobytes() == ((TEST[0] / 255 - source.mean) / source.std).astype(np.float16).tobytes()


def mark(image: NDArray[np.uint8], label: int, index: int) -> NDArray[np.uint8]:
    """A user's function of an image and two other columns."""
    image[0, 0] = (label, index % 256, random.randrange(256))  # noqa: S311 - no secrets
    return image


def crop_to_floats(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return image[1:5, 1:5].astype(np.float32) / np.float32(100)


@pytest.mark.slow
def test_a_function_gets_the_columns_that_it_asks_for(tmp_path: Path) -> None:
    prebake.bake(**ARRAYS, transform=mark, dtype="uint8", out=tmp_path / "set")
    found = train_images(tmp_path / "set")
    expected = IMAGES.copy()
    expected[:, 0, 0, 0], expected[:, 0, 0, 1], expected[:, 0, 0, 2] = LABELS, np.arange(300) % 256, found[:, 0, 0, 2]
    assert np.array_equal(found, expected)
    assert len(np.unique(found[:, 0, 0, 2])) > 100
    prebake.audit(IMAGES, LABELS, transform=mark, out=tmp_path / "set", sample=None)


@pytest.mark.usefixtures("_in_this_process")
def test_a_transform_may_change_the_size_of_uint8_images(tmp_path: Path) -> None:
    data = bake(tmp_path / "set", transform=v2.Resize((4, 5)), augment="plain", epochs=1, dtype="uint8")
    assert {data.image_shape(split) for split in data.splits} == {(4, 5, 3)}


@pytest.mark.usefixtures("_in_this_process")
def test_floats_are_stored_as_the_transform_returns_them(tmp_path: Path) -> None:
    options = {"transform": crop_to_floats, "augment": "plain", "epochs": 1, "dtype": "float32", "val_fraction": 0}
    with pytest.raises(UsageError, match=r"returns floats.* the test images.* --test-transform"):
        bake(tmp_path / "set", **options)
    data = bake(tmp_path / "set", **options, test_transform=crop_to_floats)
    assert data.plan.normalized == "by the pipeline"
    assert np.array_equal(train_images(data.path), IMAGES[:, 1:5, 1:5].astype(np.float32) / 100)
    ((images, _),) = data.batches("test", batch_size=100)
    assert np.array_equal(images, TEST[0][:, 1:5, 1:5].astype(np.float32) / 100)
    prebake.audit(
        IMAGES, LABELS, test=TEST, transform=crop_to_floats, test_transform=crop_to_floats, out=data.path, sample=None
    )


@pytest.mark.usefixtures("_in_this_process")
@pytest.mark.parametrize("late", [lambda image: image[:4], lambda image: image / 255])
def test_a_late_view_of_another_kind_ends_the_bake(late: Any, tmp_path: Path) -> None:
    def rarely(image: NDArray[np.uint8], index: int) -> Any:
        return late(image) if index == 200 else image

    with pytest.raises(UsageError, match=r"found \(.*\) \w+ for sample 200; end the transform"):
        prebake.bake(**ARRAYS, transform=rarely, out=tmp_path / "set")


class Counting:
    """A transform with state: each call makes another view."""

    calls = 0

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self.calls += 1
        return image + np.uint8(self.calls)


class Albumentations:
    """A transform with a generator of its own, which can be seeded."""

    def set_random_seed(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self._rng.integers(0, 256, image.shape, np.uint8)


OWN_GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (Counting(), r"Counting object> made two different views of sample 0 from one seed"),
        (lambda image: image + OWN_GENERATOR.integers(0, 9, image.shape, np.uint8), "two different views of sample 0"),
        (lambda image: image[: len(image) - int(image[0, 0, 0]) % 2], "expected views of one shape"),
        (
            lambda image: image.astype(np.int64),
            r"sample 0: expected an image \(H, W, C\) of uint8 or floats, found int64",
        ),
        (lambda _image: "text", "expected an image .* found"),
        (lambda image: image[..., :1], "returns 1 channels, and the images have 3"),
        (lambda image: image[9], r"raised IndexError: .* for sample 0 \(.*test_transform\.py, line \d+\)"),
        (lambda image: image / 255, "--dtype uint8: the transform returns floats; take float16 or float32"),
        (v2.RandAugment, "RandAugment is a class; name an instance"),
        ("RandAugment", "expected a callable that takes an image, found 'RandAugment'"),
    ],
)
def test_an_unusable_transform_is_refused(transform: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        prebake.bake(**ARRAYS, transform=transform, dtype="uint8", out=tmp_path / "set")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_in_this_process")
def test_a_transform_with_its_own_generator_is_seeded(tmp_path: Path) -> None:
    for name in "ab":
        prebake.bake(**ARRAYS, transform=Albumentations(), dtype="uint8", out=tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")


AUGMENTATION_FILE = """
import random
STRENGTH = 9

def noise(image):
    return change(image)

def change(image):
    image[0] = random.randrange(STRENGTH)
    return image
"""


def command(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "prebake", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_commands_take_a_transform_of_a_users_file(tmp_path: Path) -> None:
    file, out = tmp_path / "my noise.py", tmp_path / "digits"
    file.write_text(AUGMENTATION_FILE)
    bake_it = ("precompute", "--dataset", "digits", "--epochs", 2, "--out", tmp_path)
    use_it = ("--transform", f"{file}:noise")
    assert command(*bake_it, *use_it, "--workers", 2)[0] == 0
    (out / "train-e001-000.json").unlink()
    before = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    assert command("repair", out, *use_it)[0] == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == before
    code, said = command("audit", out, "--all", *use_it)
    assert code == 0, said
    code, said = command("audit", out)
    assert (code, "baked with the transform noise; name it with --transform FILE.py:NAME" in said) == (3, True), said
    file.write_text(AUGMENTATION_FILE.replace("STRENGTH = 9", "STRENGTH = 8"))
    for words in (("audit", out), ("repair", out), bake_it):
        code, said = command(*words, *use_it)
        assert (code, "the code of transform 'noise' changed since the bake" in said) == (3, True), said


def identity_of(text: str, name: str = "f") -> dict[str, str]:
    scope: dict[str, Any] = {"__name__": "a_users_module"}
    exec(text, scope)  # noqa: S102 - the test's own text
    return Pipeline.of(scope[name]).identity


def test_the_identity_covers_the_code_that_a_transform_reaches() -> None:
    text = "import numpy as np\nK = 3\ndef g(x): return x + K\ndef f(x): return np.flip(g(x))\n"
    found = identity_of(text)
    assert found == identity_of(text)
    assert found["transform"] == "f"
    assert re.fullmatch(r"numpy \d\S*", found["library"])
    for change in (("K = 3", "K = 4"), ("x + K", "x - K"), ("flip(g(x))", "flip(g(g(x)))")):
        assert identity_of(text.replace(*change))["source"] != found["source"]
    assert identity_of(text + "unused = 5\n") == found
    made = "class T:\n    def __init__(self, s): self.s = s\n    def __call__(self, x): return x\nf = T({})\n"
    assert identity_of(made.format(1)) == identity_of(made.format(1))
    assert identity_of(made.format(1)) != identity_of(made.format(2))
    compose = v2.Compose([v2.RandomRotation(5), v2.Lambda(crop_to_floats)])
    identity = Pipeline.of(compose).identity
    assert "RandomRotation" in identity["transform"]
    assert "source" in identity
    assert "source" not in Pipeline.of(v2.RandomRotation(5)).identity


@pytest.mark.slow
def test_an_interrupted_bake_in_one_process_has_the_same_bytes(transformed: ShardSet, tmp_path: Path) -> None:
    out = Path(shutil.copytree(transformed.path, tmp_path / "set"))
    for index in out.glob("t*.json"):
        index.unlink()
    for left_by_a_kill in ("pixels.part", "labels.00112233aabbccdd.part", "train-e000-000.tar.0011223344556677.part"):
        (out / left_by_a_kill).write_bytes(b"half")
    bake(out, augment=AUGMENTATION, epochs=2, val_fraction=0, workers=1)
    assert files(out) == files(transformed.path)


def test_another_version_of_a_library_is_refused(transformed: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    found = transformed.plan.augmentation
    assert re.search(r"torch \d\S*, torchvision \d\S*", found["library"])
    assert found["transform"].startswith("TrivialAugmentWide(")
    assert "library" not in augmentation_for().to_json()
    monkeypatch.setattr("prebake.precompute.augment.identity.version_of", lambda name: f"{name} 9.9")
    other = replace(AUGMENTATION, transform=torchvision_transform("TrivialAugmentWide"))
    with pytest.raises(
        DataError, match=r"libraries were torch .* at the bake, and are torch 9\.9, torchvision 9\.9 now\)\. Restore"
    ):
        bake(transformed.path, augment=other, epochs=2, val_fraction=0)


@pytest.mark.slow
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


def test_a_transform_under_the_guard_of_a_script_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, numpy as np, prebake\n"
        "if __name__ == '__main__':\n"
        "    def f(image): return image\n"
        "    images = np.zeros((4, 8, 8, 3), np.uint8)\n"
        "    try: prebake.bake(images, np.arange(4), transform=f, epochs=1, workers=1, out=sys.argv[1])\n"
        "    except prebake.UsageError as error: print(error)\n"
    )
    command = [sys.executable, str(script), str(tmp_path / "set")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Define it at the top level of a module, and not under `if __name__" in done.stdout


@pytest.mark.slow
def test_the_last_line_counts_all_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bake(tmp_path / "set", augment=AUGMENTATION, epochs=1, val_fraction=0, test=None, workers=1)
    assert "train epoch 0 done, 300 of 300 images" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for a process's children")
def test_a_killed_process_ends_the_bake_which_can_be_resumed(
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
