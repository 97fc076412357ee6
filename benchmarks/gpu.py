"""python -m benchmarks.gpu: all that a GPU has to answer, in one command of some eight minutes.

CIFAR-10 in two encodings; DavidNet for 25 epochs, eager and compiled: seconds and accuracy, apart. Utilization:
the same steps fed from shards and from one batch that lies on the device, here and in a process on two cores.
Beside them, in the same rounds: images on the device that are augmented there, and torchvision's workers.
Every answer is written as soon as it is known; a stage that fails says why, and the others go on.
"""

import argparse
import contextlib
import functools
import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench import Batches, Bench, rates_of_steps
from benchmarks.measure import RESULTS, Fact, interleaved, machine, spread
from prebake.cli.run import run_command
from prebake.console import log
from prebake.loader.data_wait import STALL_SECONDS, DataWaitMeter
from prebake.precompute.bake import bake
from prebake.storage.atomic import write_atomic
from prebake.train.device import choose_device, synchronize
from prebake.train.summary import epoch_line, summarize

ROOT = Path(__file__).parent.parent
ENCODINGS = ("float16", "uint8")
RESIDENT = "one resident batch"
UNKNOWN = "to be known"
GOALS = {
    "page2018": "94 % within 12 s, aim 8 s",
    "default": "94.3 %, with flip TTA 94.7 %",
    "from shards": "at least 0.99",
}


def bake_both(bench: Bench) -> dict[str, Fact]:
    """Bake all epochs in both encodings."""
    facts = {}
    train, test = bench.images["train"], bench.images["test"]
    for dtype in ENCODINGS:
        started = time.perf_counter()
        bake(
            train.images_NHWC,
            train.labels_N,
            test=(test.images_NHWC, test.labels_N),
            name="cifar10",
            dtype=dtype,
            epochs=bench.size.epochs,
            out=bench.work_dir / dtype,
            overwrite=True,
        )
        seconds = time.perf_counter() - started
        rate = bench.size.epochs * len(train.labels_N) / seconds
        facts[f"bake, {dtype}"] = Fact(UNKNOWN, f"{seconds:.1f} s, {rate:,.0f} images/s", 1)
    return facts


def train(bench: Bench, recipe: str, *, compiled: bool) -> dict[str, Fact]:
    """Train as `python -m train` does, with seed 0."""
    cuda = bench.device.type == "cuda"
    if cuda:
        gc.collect()  # trainers of other stages refer to themselves
        torch.cuda.reset_peak_memory_stats(bench.device)
    trainer = bench.trainer(recipe, compiled=compiled)
    for report in trainer.run():
        log(epoch_line(recipe, report, bench.size.epochs))
    started = time.perf_counter()
    score = trainer.evaluate("test", tta=True)
    summary = summarize(trainer, Path(), score, time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated(bench.device) if cuda else 0
    seconds = summary["seconds"]
    measured = (
        f"{100 * summary['test_accuracy']:.2f} %, with flip TTA {100 * summary['test_accuracy_tta']:.2f} %, "
        f"in {seconds['train']:.2f} s of training, {seconds['compile']:.1f} s before, {seconds['evaluate']:.1f} s of "
        f"evaluation; utilization {100 * summary['utilization']:.2f} %, {summary['stalls']} stalls; "
        f"{peak / 1e9:.1f} GB of device memory"
    )
    values = {**summary, "peak_memory_bytes": peak}
    return {f"{recipe}, {bench.size.epochs} epochs, {_mode(compiled)}": Fact(GOALS[recipe], measured, 1, values)}


def steps(bench: Bench, *, compiled: bool) -> dict[str, Fact]:
    """Take the same steps, fed in different ways in turn; hold each way's rate against that of a resident batch."""
    trainer = bench.trainer("page2018", compiled=compiled)
    trainer.warm_up()
    waits = {f"from shards, {dtype}": DataWaitMeter(bench.device) for dtype in ENCODINGS}
    with contextlib.ExitStack() as streams:
        shards = {
            f"from shards, {dtype}": bench.from_shards(dtype, streams, waits[f"from shards, {dtype}"])
            for dtype in ENCODINGS
        }
        images, labels = next(shards[f"from shards, {ENCODINGS[0]}"])
        resident = itertools.repeat((images.clone(), labels.clone()))
        contestants: dict[str, Batches] = {RESIDENT: resident, **shards}
        contestants["augmented on the device"] = bench.on_device().forever()
        rates = rates_of_steps(trainer, contestants, bench.size)
        if not compiled:  # after the others, beside whose steps their workers would still be busy
            rates |= rates_of_steps(trainer, bench.on_line(), bench.size)
        return {f"utilization, {_mode(compiled)}, {name}": _utilization(name, rates, waits.get(name)) for name in rates}


def _utilization(name: str, rates: dict[str, list[float]], waits: DataWaitMeter | None) -> Fact:
    rate = statistics.median(rates[name])
    kept: dict[str, Any] = {"images/s": spread(rates[name])}
    if waits:
        seconds = waits.take()
        kept["wait, seconds"] = {**spread(seconds), "p99": float(np.percentile(seconds, 99))}
        kept["stalls"] = {"count": sum(wait > STALL_SECONDS for wait in seconds), "of": len(seconds)}
    measured = f"{rate / statistics.median(rates[RESIDENT]):.4f} ({rate:,.0f} images/s)"
    return Fact(GOALS.get(name.split(",")[0], UNKNOWN), measured, len(rates[name]), kept)


def _mode(compiled: bool) -> str:
    return "compiled" if compiled else "eager"


def two_cores(bench: Bench) -> dict[str, Fact]:
    """Take the same steps in a process that may use two cores only."""
    out = bench.work_dir / "two-cores.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--stages", "steps", "steps-compiled", "--json"]
    command += ["--device", str(bench.device), "--data-dir", str(bench.data_dir.resolve())]
    command += ["--work-dir", str(bench.work_dir), "--out", str(out)]
    command += ["--seconds-limit", str(bench.deadline - time.monotonic()), *(["--quick"] if bench.quick else [])]
    cores = sorted(os.sched_getaffinity(0))[:2]
    subprocess.run(
        command,
        cwd=ROOT,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),  # before torch starts its threads
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return {f"two cores: {name}": Fact(**fact) for name, fact in json.loads(out.read_text())["facts"].items()}


def alone(bench: Bench) -> dict[str, Fact]:
    """Measure the parts without the steps: feeding, copying, augmenting, evaluating."""
    trainer, on_device = bench.trainer("page2018", compiled=False), bench.on_device()
    work: dict[str, Callable[[], int]] = {
        "feed, float16": lambda: _feed_alone(bench, "float16"),
        "feed, uint8": lambda: _feed_alone(bench, "uint8"),
        "copies of a pinned float16 batch": lambda: _copy_alone(bench),
        "augmenting on the device": lambda: _count(on_device, bench.device),
        "evaluating": lambda: trainer.data.samples("test") if trainer.evaluate("test") else 0,
    }
    rates = interleaved(work, bench.size.rounds)
    return {
        f"alone: {name}": Fact(UNKNOWN, f"{statistics.median(values):,.0f} images/s", len(values), spread(values))
        for name, values in rates.items()
    }


def _feed_alone(bench: Bench, dtype: str) -> int:
    with contextlib.ExitStack() as streams:
        return _count(itertools.islice(bench.from_shards(dtype, streams), bench.size.steps), bench.device)


def _copy_alone(bench: Bench) -> int:
    pin = bench.device.type == "cuda"
    staged = torch.zeros((bench.size.batch_size, 32, 32, 3), dtype=torch.float16, pin_memory=pin)
    there = torch.empty_like(staged, device=bench.device)
    for _ in range(bench.size.steps):
        there.copy_(staged, non_blocking=True)
    synchronize(bench.device)
    return bench.size.steps * len(staged)


def _count(batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> int:
    count = sum(len(labels) for _, labels in batches)
    synchronize(device)
    return count


STAGES: dict[str, Callable[[Bench], dict[str, Fact]]] = {
    "bake": bake_both,
    "page2018": functools.partial(train, recipe="page2018", compiled=False),
    "page2018-compiled": functools.partial(train, recipe="page2018", compiled=True),
    "steps": functools.partial(steps, compiled=False),
    "steps-compiled": functools.partial(steps, compiled=True),
    "two-cores": two_cores,
    "default": functools.partial(train, recipe="default", compiled=False),
    "default-compiled": functools.partial(train, recipe="default", compiled=True),
    "alone": alone,
}


def main() -> None:
    """Go through the stages; print and keep what each of them found."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    add = options.add_argument
    add("--data-dir", type=Path, default=Path("data"), help="torchvision root; default data")
    add("--work-dir", type=Path, help="to bake in, and to keep the shards in; default a temporary directory")
    add("--out", type=Path, default=RESULTS / "gpu.json", help="file of the results; default %(default)s")
    add("--device", default="cuda", help="cuda or cpu; default cuda")
    add("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="NAME", help=f"of {', '.join(STAGES)}")
    add("--seconds-limit", type=float, default=540, help="no stage begins later than that; default 540")
    add("--quick", action="store_true", help="a few steps on noise, to try the command itself")
    add("--json", action="store_true", help="print JSON")
    arguments = options.parse_args()
    part = arguments.quick or arguments.stages != list(STAGES)
    if part and arguments.out == options.get_default("out"):
        options.error("--quick and --stages answer a part: name another file for it with --out")
    deadline = time.monotonic() + arguments.seconds_limit
    device = choose_device(arguments.device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    about = {**machine("numpy", "torch", "torchvision", "xxhash"), "gpu": gpu}
    answers: dict[str, Any] = {}
    result = {"question": "gpu", "machine": about, "facts": answers}
    with tempfile.TemporaryDirectory() as temporary:
        work_dir = arguments.work_dir or Path(temporary)
        bench = Bench(arguments.data_dir, work_dir, device, deadline, arguments.quick)
        for stage in arguments.stages:
            for name, fact in _answers(stage, bench).items():
                answers[name] = asdict(fact)
                if not arguments.json:
                    print(f"{name}: {fact.measured}; goal: {fact.goal}; n = {fact.n}", flush=True)
            write_atomic(arguments.out, (json.dumps(result, indent=1) + "\n").encode())
    if arguments.json:
        print(json.dumps(result))


def _answers(stage: str, bench: Bench) -> dict[str, Fact]:
    if time.monotonic() > bench.deadline:
        return {stage: Fact(UNKNOWN, "skipped: no time was left (--seconds-limit)")}
    log(f"{stage} ...")
    try:
        return STAGES[stage](bench)
    except Exception as error:  # whatever it is, the next stage may answer its own question
        traceback.print_exc()
        return {stage: Fact(UNKNOWN, f"skipped: {type(error).__name__}: {' '.join(str(error).split())[:300]}")}


if __name__ == "__main__":
    run_command(main)
