"""python -m precompute: bake data sets into shards."""

import argparse
import json
from pathlib import Path

from precompute.augment import AUGMENTATIONS, FLIPS, PAD_MODES, augmentation_for
from precompute.bake import bake_source, estimate, make_plan
from precompute.progress import gigabytes
from precompute.sources import DATASETS, hold_out, load
from shards.errors import MachineError, UsageError, run_command
from shards.record import ENCODINGS


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(prog="python -m precompute", description="Bake every augmented view of a data set.")
    options.add_argument("--epochs", type=int, required=True, help="variants of each training image")
    options.add_argument("--dataset", nargs="+", default=["cifar10"], metavar="NAME", help=f"of {', '.join(DATASETS)}; default cifar10")
    options.add_argument("--data-dir", type=Path, default=Path("data"), help="torchvision root, downloaded to where empty; default data")
    options.add_argument("--out", type=Path, default=Path("shards"), help="root of the shard sets; default shards")
    options.add_argument("--augment", default="standard", metavar="NAME", help=f"of {', '.join(AUGMENTATIONS)}; default standard")
    options.add_argument("--pad", type=int, help="pixels around the image before it is cropped")
    options.add_argument("--pad-mode", help=f"of {', '.join(PAD_MODES)}")
    options.add_argument("--flip", help=f"of {', '.join(FLIPS)}")
    options.add_argument("--cutout", type=int, help="side in pixels of the square cut out, 0 for none")
    options.add_argument("--dtype", default="float16", help=f"of {', '.join(ENCODINGS)}; default float16")
    options.add_argument("--val-fraction", type=float, default=0.0, help="share of the training images held out for validation")
    options.add_argument("--seed", type=int, default=0, help="of all draws; default 0")
    options.add_argument("--workers", type=int, help="threads; default one a core")
    options.add_argument("--overwrite", action="store_true", help="replace what stands there")
    options.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    options.add_argument("--json", action="store_true", help="with --dry-run: print JSON")
    return options


def main() -> None:
    """Bake the data sets that are named, one after the other."""
    arguments = parser().parse_args()
    if arguments.workers is not None and arguments.workers < 1:
        raise UsageError(f"--workers: expected at least 1, found {arguments.workers}")
    unknown = [name for name in arguments.dataset if name not in DATASETS]
    if unknown:
        raise UsageError(f"--dataset: no data set named {', '.join(unknown)}; there are {', '.join(DATASETS)}")
    for name in arguments.dataset:
        augmentation = augmentation_for(
            name,
            arguments.augment,
            pad=arguments.pad,
            pad_mode=arguments.pad_mode,
            flip=arguments.flip,
            cutout=arguments.cutout,
        )
        source = hold_out(load(name, arguments.data_dir), arguments.val_fraction)
        plan = make_plan(source, augmentation, arguments.epochs, arguments.dtype, arguments.seed)
        directory = arguments.out / name
        if arguments.dry_run:
            left = estimate(plan, directory)
            if arguments.json:
                print(json.dumps({"dataset": name, **vars(left)}))
            else:
                print(
                    f"{name}: {left.shards} of {left.planned_shards} shards to write, {left.bytes} of {left.planned_bytes} bytes "
                    f"({gigabytes(left.bytes)}), into {directory}; {left.free_bytes} bytes ({gigabytes(left.free_bytes)}) free"
                )
                if left.bytes > left.free_bytes:
                    raise MachineError(f"{directory}: not enough space")
            continue
        bake_source(
            source, plan, augmentation, directory, workers=arguments.workers, overwrite=arguments.overwrite
        )
        print(f"{name}: {plan.epochs} epochs of {plan.splits['train'][0].samples} images in {directory}")


if __name__ == "__main__":
    run_command(main)
