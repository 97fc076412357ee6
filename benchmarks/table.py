"""python -m benchmarks.table: the tables of docs/benchmarks.md and docs/experiments.md, made from `results/`.

With --write they replace the text between the markers of these pages.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import measure

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {"speeds": DOCS / "benchmarks.md", "experiments": DOCS / "experiments.md"}
PARTS = {
    "speeds": ("augment", "stream", "step", "bake", "soak", "end_to_end-digits", "break_even", "many", "remote", "gpu"),
    "experiments": ("fast-cifar10", "resizing-cifar10"),
}
RATES = ["| `python -m benchmarks.` | who | images/s | ratio |", "| --- | --- | ---: | ---: |"]
FACTS = ["| `python -m benchmarks.` | what | goal | measured | n |", "| --- | --- | --- | --- | ---: |"]


def table(part: str) -> str:
    """Return the tables of a part as Markdown between its markers: rates, facts, then machines and versions."""
    results = {question: _read(question) for question in PARTS[part]}
    rates = [row for question, result in results.items() for row in _rates(question, result)]
    facts = [row for question, result in results.items() for row in _facts(question, result)]
    notes = [_note(question, result) + "  " for question, result in results.items()]
    blocks = [RATES + rates if rates else [], FACTS + facts if facts else [], notes]
    begin, end = _markers(part)
    return begin + "\n\n".join("\n".join(block) for block in blocks if block).rstrip() + "\n" + end


def _markers(part: str) -> tuple[str, str]:
    return f"<!-- {part}: python -m benchmarks.table --write -->\n", f"<!-- end of {part} -->\n"


def _read(question: str) -> dict[str, Any] | None:
    path = measure.RESULTS / f"{question}.json"
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def _rates(question: str, result: dict[str, Any] | None) -> list[str]:
    if result is None or "rates" not in result:
        return []
    rows = []
    for name, figures in result["rates"].items():
        ratio = "1" if name == result["against"] else f"{figures['ratio']:.3g}"
        rows.append(f"| `{question}` | {name} | {figures['median']:,.0f} | {ratio} |")
    return rows + [f"| `{question}` | {name} | skipped: {why} | |" for name, why in result["skipped"].items()]


def _facts(question: str, result: dict[str, Any] | None) -> list[str]:
    facts = {} if result is None else result.get("facts", {})
    return [
        f"| `{question}` | {name} | {fact['goal']} | {fact['measured']} | {fact['n'] or ''} |"
        for name, fact in facts.items()
    ]


def _note(question: str, result: dict[str, Any] | None) -> str:
    if result is None:
        return f"`{question}`: not measured."
    about = result["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    on = f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, {packages}."
    if "experiment" in about:
        on = f"{about['experiment']}; mean and 95 % interval over seeds; {on}"
    if "rates" not in result:
        return f"`{question}`: {on}"
    return f'`{question}`: ratio to "{result["against"]}"; median of n = {result["n"]} interleaved rounds, {on}'


def main() -> None:
    """Print the tables, or write them into their pages."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    options.add_argument("--write", action="store_true", help="replace the tables in docs/")
    write = options.parse_args().write
    for part in PARTS:
        if write:
            begin, end = _markers(part)
            before, _, rest = PAGES[part].read_text().partition(begin)
            PAGES[part].write_text(before + table(part) + rest.partition(end)[2])
        else:
            print(table(part))


if __name__ == "__main__":
    main()
