"""Write the golden files anew: `python -m tests.golden.make`, from the repository's root.

They pin format version 1. Run this only together with a new format version, whose number in
`shards/plan.py` and whose text in `shards/FORMAT.md` change in the same commit: shards that users have
baked must be read by every release that says it reads their version, and baked again to the same bytes.
"""

import shutil
from pathlib import Path

import numpy as np

import prebake

HERE = Path(__file__).parent
ENCODINGS = ("float16", "uint8")


def bake_golden(dtype: str, out: Path) -> None:
    """Bake the golden set: five images to train, two to test, two epochs."""
    pixels = (np.arange(7 * 4 * 4 * 3) * 37 % 256).astype(np.uint8).reshape(7, 4, 4, 3)
    labels = np.array([0, 1, 2, 1, 0, 2, 1], np.int64)
    prebake.bake(
        pixels[:5],
        labels[:5],
        test=(pixels[5:], labels[5:]),
        augment=prebake.Augmentation("standard", pad=1, pad_mode="reflect", flip="random", cutout=2),
        classes=("zero", "one", "two"),
        name="golden",
        epochs=2,
        dtype=dtype,
        seed=7,
        out=out,
    )
    (out / "bake.lock").unlink()


if __name__ == "__main__":
    for name in ENCODINGS:
        shutil.rmtree(HERE / name, ignore_errors=True)
        bake_golden(name, HERE / name)
