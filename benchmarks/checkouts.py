"""python -m benchmarks.checkouts OLD: is this checkout as fast as another one?

Both checkouts run their own `benchmarks.augment`, `stream`, `step` and `bake`, in turn, on one machine. The ratio of
each contestant's rates is printed with its lowest and highest value over the rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prebake.errors import MachineError

NEW = Path(__file__).parent.parent
ROUND = ("--repetitions", "1", "--json")


def rates(result: Mapping[str, Any]) -> dict[str, float]:
    """Return images/s, or 1 / seconds of a whole command, of our contestants in one benchmark's JSON."""
    found = {name: figures["median"] for name, figures in result.get("rates", {}).items() if name.startswith("prebake")}
    for name, fact in result.get("facts", {}).items():
        for what, value in fact["values"].items():
            if name.startswith("whole command") and what == "bake, seconds":
                found[name] = 1 / value["median"]
            elif name.startswith("writing to memory"):
                found[f"writing to memory, {what}"] = value["median"]
    return found


def run_once(checkout: Path, benchmark: str, arguments: Sequence[str]) -> dict[str, float]:
    """Run one round of a benchmark in a checkout.

    Raises:
        MachineError: it failed.
    """
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", *ROUND, *arguments]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MachineError(f"{checkout}: {' '.join(command[1:])} failed: {done.stderr.strip().splitlines()[-1:]}")
    return rates(json.loads(done.stdout))


def main() -> None:
    """Print a line for each contestant."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.checkouts", description=__doc__)
    options.add_argument("old", type=Path, metavar="OLD", help="directory of the other checkout")
    options.add_argument("--benchmark", default="augment", choices=("augment", "stream", "step", "bake"))
    options.add_argument("--rounds", type=int, default=5, help="default 5")
    chosen, arguments = options.parse_known_args()
    found: dict[str, list[tuple[float, float]]] = {}
    for number in range(chosen.rounds):
        turn = [chosen.old, NEW] if number % 2 == 0 else [NEW, chosen.old]
        both = {checkout: run_once(checkout, chosen.benchmark, arguments) for checkout in turn}
        for name in both[chosen.old].keys() & both[NEW].keys():
            found.setdefault(name, []).append((both[chosen.old][name], both[NEW][name]))
        print(f"round {number + 1} of {chosen.rounds}", file=sys.stderr, flush=True)
    for name, pairs in sorted(found.items()):
        ratios = [new / old for old, new in pairs]
        median = statistics.median(ratios)
        print(f"{chosen.benchmark}: {name}: {median:.3f} [{min(ratios):.3f}, {max(ratios):.3f}], n = {len(ratios)}")


if __name__ == "__main__":
    main()
