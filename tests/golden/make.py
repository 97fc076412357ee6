"""Write the golden files again: `python -m tests.golden.make`, from the root of the repository.

They pin format version 2. Run this only together with a new format version, whose number in
`prebake/format/manifest.py` and whose text in `prebake/format/FORMAT.md` change in the same commit. Sets that
users have baked must be read, and baked again to the same bytes, by every release of that version.
"""

import shutil
from pathlib import Path

import numpy as np

import prebake
from prebake.format.columns import Column
from prebake.format.manifest import MANIFEST, Epoch, Plan, Source
from prebake.format.soft_labels import DIRECTORY, SoftLabelPlan, Teacher, write_soft_labels
from prebake.format.writer import create_shard, empty_records

HERE = Path(__file__).parent
CLASSES = ("zero", "one", "two")


def bake_golden(dtype: str, out: Path) -> None:
    """Bake five images to train and two to test, in two epochs."""
    pixels = (np.arange(7 * 4 * 4 * 3) * 37 % 256).astype(np.uint8).reshape(7, 4, 4, 3)
    labels = np.array([0, 1, 2, 1, 0, 2, 1], np.int64)
    prebake.bake(
        pixels[:5],
        labels[:5],
        test=(pixels[5:], labels[5:]),
        augment=prebake.Augmentation("standard", pad=1, pad_mode="reflect", flip="random", cutout=2),
        classes=CLASSES,
        name="golden",
        epochs=2,
        dtype=dtype,
        seed=7,
        out=out,
    )
    (out / "bake.lock").unlink()


def write_columns(out: Path) -> None:
    """Write a set with columns of a user's own, images as a pipeline returned them, and soft labels."""
    plan = Plan(
        source=Source("golden", CLASSES, (0.5,), (0.25,), {"train": "00" * 32}, "default"),
        augmentation={"name": "own"},
        dtype="float32",
        seed=0,
        splits={"train": (Epoch(3, (2, 3, 2)), Epoch(3, (1, 2, 2)))},
        user_columns=(Column("mask", "bool", (2, 3)), Column("target", "float64", ())),
        by_pipeline=True,
    )
    out.mkdir()
    (out / MANIFEST).write_bytes(plan.to_bytes())
    for shard in plan.shards():
        with create_shard(out, shard, plan.identity) as archive:
            for _, frame in empty_records(shard):
                for name, array in frame.columns.items():
                    values = np.arange(array.size).reshape(array.shape)
                    array[...] = values % 2 if name == "mask" else values % 3 if name == "labels" else values
                archive.write(frame)
    soft_plan = SoftLabelPlan(plan, (Teacher("0f" * 32, "default"),), averaged=2, precision="float32", epochs=1)
    soft = out / DIRECTORY / "teacher"
    soft.mkdir(parents=True)
    (soft / MANIFEST).write_bytes(soft_plan.to_bytes())
    for shard in soft_plan.shards():
        write_soft_labels(soft, soft_plan, shard, np.arange(9).reshape(3, 3) / 8)


SETS = {
    "float16": lambda out: bake_golden("float16", out),
    "uint8": lambda out: bake_golden("uint8", out),
    "columns": write_columns,
}


if __name__ == "__main__":
    for name, write in SETS.items():
        shutil.rmtree(HERE / name, ignore_errors=True)
        write(HERE / name)
