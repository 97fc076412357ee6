"""Measuring: contestants in turn, on one otherwise idle machine, and what is printed of it."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "interleaved", "machine", "report"]

RESULTS = Path(__file__).parent / "results"


def interleaved(contestants: Mapping[str, Callable[[], int]], repetitions: int) -> dict[str, list[float]]:
    """Time the contestants in turn; return each one's images/s, the first round thrown away.

    Args:
        contestants: each does its work and returns how many images that was.
        repetitions: rounds that count.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repetitions + 1):
        for name, work in contestants.items():
            started = time.perf_counter()
            images = work()
            seconds = time.perf_counter() - started
            if turn:
                rates[name].append(images / seconds)
            print(f"round {turn}: {name}: {images / seconds:,.0f} images/s", file=sys.stderr, flush=True)
    return rates


def machine(*packages: str) -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, Python, versions of packages, the commit."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    # The name alone hides the generation on virtual machines.
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607 - git on the PATH
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
        "commit": commit.stdout.strip(),
    }


def report(
    question: str,
    rates: Mapping[str, list[float]],
    against: str,
    about: Mapping[str, Any],
    *,
    as_json: bool,
    skipped: Mapping[str, str] | None = None,
) -> None:
    """Print medians and their ratios to one contestant; keep all in `results/QUESTION.json`."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    result: dict[str, Any] = {
        "question": question,
        "machine": dict(about),
        "unit": "images/s",
        "n": len(next(iter(rates.values()))),
        "against": against,
        "rates": {
            name: {
                "median": medians[name],
                "min": min(values),
                "max": max(values),
                "ratio": medians[name] / medians[against],
            }
            for name, values in rates.items()
        },
        "skipped": dict(skipped or {}),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{question}.json").write_text(json.dumps(result, indent=1) + "\n")
    if as_json:
        print(json.dumps(result))
        return
    print(
        f"{question}: {about['cpu']}, {about['cores']} cores, n = {result['n']}, load before {about['load_before']:.2f}"
    )
    for name, figures in result["rates"].items():
        print(f"  {name:45s} {figures['median']:>12,.0f} images/s  {figures['ratio']:8.3f} of {against}")
    for name, reason in result["skipped"].items():
        print(f"  {name:45s} skipped: {reason}")
