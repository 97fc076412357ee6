"""python -m benchmarks.table: README's table of speeds, made from `results/`.

With --write it takes the place of the table that stands between README's two markers.
"""

import argparse
import json
from pathlib import Path

from benchmarks.measure import RESULTS

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- speeds: python -m benchmarks.table --write -->\n", "<!-- end of speeds -->\n"
QUESTIONS = ("augment", "stream", "step")


def table() -> str:
    """Return the table as Markdown, a row a contestant, in the order of the questions."""
    lines = ["| `python -m benchmarks.` | who | images/s | ratio |", "| --- | --- | ---: | ---: |"]
    notes = []
    for question in QUESTIONS:
        result = json.loads((RESULTS / f"{question}.json").read_text())
        for name, figures in result["rates"].items():
            ratio = "1" if name == result["against"] else f"{figures['ratio']:.3g}"
            lines.append(f"| `{question}` | {name} | {figures['median']:,.0f} | {ratio} |")
        lines += [f"| `{question}` | {name} | skipped: {why} | |" for name, why in result["skipped"].items()]
        about = result["machine"]
        packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
        notes.append(
            f'`{question}`: ratio to "{result["against"]}"; median of n = {result["n"]} interleaved rounds, '
            f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, {packages}."
        )
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]).rstrip() + "\n"


def main() -> None:
    """Print the table, or put it into README."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    options.add_argument("--write", action="store_true", help="replace the table in README.md")
    if options.parse_args().write:
        before, _, rest = README.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        README.write_text(before + BEGIN + table() + END + after)
    else:
        print(table(), end="")


if __name__ == "__main__":
    main()
