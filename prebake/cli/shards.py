"""`prebake info`, `verify`, `show` and `drop`: inspect and maintain a shard set."""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prebake.cli.options import user_path
from prebake.cli.parser import CommandParser
from prebake.errors import DataError, UsageError, listed, quote
from prebake.format.manifest import MANIFEST, Plan
from prebake.format.shard import Shard
from prebake.format.soft_labels import DIRECTORY, SoftLabelPlan
from prebake.format.verify import damage
from prebake.loader.describe import describe, digest, soft_label_sets
from prebake.loader.grid import draw_grid
from prebake.loader.shard_set import ShardSet
from prebake.precompute.drop import drop_epochs
from prebake.storage.files import Location, existing, parse_path


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command, by its name."""

    def command(name: str, about: str) -> argparse.ArgumentParser:
        added = CommandParser(prog=f"prebake {name}", description=about)
        added.add_argument(
            "directory", type=parse_path, metavar="DIR", help="a shard set, such as shards/cifar10, or its URL"
        )
        return added

    info = command("info", "Show the content of a shard set, and which shards are missing.")
    info.add_argument("--json", action="store_true", help="print the result as JSON")
    info.add_argument("--digest", action="store_true", help="print only one SHA-256 of the whole set")
    verify = command("verify", "Check every byte against its checksum.")
    verify.add_argument("--json", action="store_true", help="print the result as JSON")
    show = command("show", "Draw a grid of the same images in several epochs.")
    show.add_argument("--epochs", help="range of epochs, such as 0-7; default the first 8")
    show.add_argument("--images", type=int, nargs="+", help="source indices of the images; default the first 8")
    show.add_argument("--out", type=user_path, default=Path("grid.png"), help="PNG file; default grid.png")
    drop = command("drop", "Remove the last epochs of a shard set to free space.")
    drop.add_argument("--epochs", required=True, help="range of epochs, such as 20- for epoch 20 to the last one")
    return {"info": info, "verify": verify, "show": show, "drop": drop}


def main() -> None:
    """Run one of the commands: `info DIR`, `verify DIR`, `show DIR` or `drop DIR`."""
    name, *arguments = sys.argv[1:]
    chosen = parsers()[name].parse_args(arguments)
    {"info": _info, "verify": _verify, "show": _show, "drop": _drop}[name](ShardSet(chosen.directory), chosen)


def _info(data: ShardSet, arguments: argparse.Namespace) -> None:
    if arguments.digest:
        print(digest(data))
        return
    about = describe(data)
    if arguments.json:
        print(json.dumps(about, indent=1))
        return
    height, width, channels = about["image_shape"]
    augmentation = about["augmentation"]
    parameters = ", ".join(f"{_plain(key)} {_plain(value)}" for key, value in augmentation.items() if key != "name")
    samples = ", ".join(f"{split} {count}" for split, count in about["samples"].items())
    missing = about["missing"]
    print(f"source        {data.name}, {len(data.classes)} classes, {height}x{width}x{channels}")
    print(f"augmentation  {_plain(augmentation.get('name', 'without a name'))} ({parameters}), seed {about['seed']}")
    columns = ", ".join(f"{name} {dtype}{list(shape)}" for name, (dtype, shape) in data.columns.items())
    print(f"columns       {columns}")
    print(f"epochs        {about['epochs_whole']} of {about['epochs']} whole")
    print(f"samples       {samples}")
    print(f"bytes         {about['bytes']} of {about['bytes_planned']} in {about['shards']} shards")
    print(f"identity      {about['identity']}")
    print(f"soft labels   {', '.join(about['soft_labels']) or 'none'}")
    print(f"missing       {f'{len(missing)} shards: {listed(missing)}' if missing else 'nothing'}")


def _plain(value: object) -> str:
    """Return a value of a manifest for a line on the terminal: strings without quotes."""
    return quote(value)[1:-1] if isinstance(value, str) else quote(value)


def _verify(data: ShardSet, arguments: argparse.Namespace) -> None:
    whole, missing, damaged = _check(data.location, data.plan, data.missing())
    size_bytes = sum(shard.size_bytes for shard in whole)
    count, remedies = len(whole), [data.plan.remedy(data.location)] if damaged or missing else []
    for name in soft_label_sets(data):
        directory, prefix = data.location / DIRECTORY / name, f"{DIRECTORY}/{name}/"
        try:
            plan = SoftLabelPlan.read(directory, data.plan)
        except DataError as error:
            damaged[f"{prefix}{MANIFEST}"] = str(error)
            remedies.append(f"Remove {directory}, and write the soft labels again")
            continue
        indexes = existing(directory, [shard.index for shard in plan.shards()])
        absent = [shard.tar for shard in plan.shards() if shard.index not in indexes]
        checked, not_there, broken = _check(directory, plan, absent)
        size_bytes += sum(shard.size_bytes for shard in checked)
        count += len(checked)
        missing += [prefix + tar for tar in not_there]
        damaged |= {prefix + tar: trouble for tar, trouble in broken.items()}
        remedies += [plan.remedy(directory)] if not_there or broken else []
    if arguments.json:
        counts = {"shards": count, "bytes": size_bytes}
        print(json.dumps({**counts, "damaged": damaged, "missing": missing}, indent=1))
    else:
        for name in missing:
            print(f"missing  {name}")
        for trouble in damaged.values():
            print(f"damaged  {trouble}")
    if damaged or missing:
        raise DataError(
            f"{data.location}: {len(damaged)} shards damaged ({listed(list(damaged)) or 'none'}), "
            f"{len(missing)} missing. {'. '.join(remedies)}"
        )
    if not arguments.json:
        print(f"{data.location}: {count} shards, {size_bytes} bytes, all as written")


def _check(
    directory: Location, plan: Plan | SoftLabelPlan, missing: Sequence[str]
) -> tuple[list[Shard], list[str], dict[str, str]]:
    """Check every shard of a plan that is there; return these, the missing, and a description of each damage."""
    whole = [shard for shard in plan.shards() if shard.tar not in set(missing)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda shard: damage(directory, shard, plan), whole)
        damaged = {shard.tar: trouble for shard, trouble in zip(whole, found, strict=True) if trouble}
    return whole, sorted(missing), damaged


def _show(data: ShardSet, arguments: argparse.Namespace) -> None:
    epochs = range(data.epochs)[:8] if arguments.epochs is None else epoch_range(arguments.epochs, data.epochs)
    images = list(range(min(8, data.samples("train")))) if arguments.images is None else arguments.images
    draw_grid(data, images, epochs, arguments.out)
    print(f"{arguments.out}: {len(images)} images in epochs {epochs[0]} to {epochs[-1]}")


def _drop(data: ShardSet, arguments: argparse.Namespace) -> None:
    epochs = epoch_range(arguments.epochs, data.epochs)
    if epochs.stop != data.epochs:
        raise UsageError(
            f"--epochs: only the last epochs can be removed; {arguments.epochs} leaves "
            f"{epochs.stop} to {data.epochs - 1}. Take {epochs.start}-"
        )
    freed = drop_epochs(data, epochs.start)
    print(f"{data.path}: epochs {epochs.start} to {epochs.stop - 1} dropped, {freed} bytes freed")
    if kept := soft_label_sets(data):
        print(f"{data.path / DIRECTORY}: {listed(kept)} kept; remove what you no longer need")


def epoch_range(text: str, epochs: int) -> range:
    """Read `3`, `0-7` or `20-` as a range of a set's epochs.

    Raises:
        UsageError: not of that form, or outside 0 to epochs - 1.
    """
    first, dash, last = text.partition("-")
    if re.fullmatch("[0-9]{1,9}", first) and re.fullmatch("[0-9]{0,9}", last):
        start = int(first)
        stop = start if not dash else int(last) if last else epochs - 1
        if start <= stop < epochs:
            return range(start, stop + 1)
    raise UsageError(f"--epochs: expected one of 0 to {epochs - 1}, or a range like 0-7 or 20-, found {text!r}")
