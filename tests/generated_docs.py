"""python -m tests.generated_docs: the parts of docs/ that follow from the code.

These are the reference of docs/command-line.md and the lists of all data sets, presets, recipes and models. With
--write it replaces the text between the markers of each page.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from prebake.precompute.augment import AUGMENTATIONS
from prebake.precompute.sources import sources
from prebake.train.models import MODELS
from prebake.train.recipes import RECIPES
from tests import command_line

__all__ = ["PARTS", "generated"]

DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- python -m tests.generated_docs --write -->\n", "<!-- end -->\n"


def data_sets() -> str:
    """Return a table of the values of `--dataset`."""
    rows = [f"| `{source}` | {source.about.replace('|', ' or ')} |" for source in sources().values()]
    return "\n".join(["| `--dataset` | data set |", "| --- | --- |", *rows, ""])


def presets() -> str:
    """Return a table of the presets and their parameters."""
    rows = [
        f"| `{name}` | {each.pad} | {each.pad_mode} | {each.flip} | {each.cutout} | "
        f"{'yes' if each.transform else ''} | {f'`{each.recipe}`' if each.recipe else ''} |"
        for name, each in AUGMENTATIONS.items()
    ]
    head = "| preset | pad | pad mode | flip | cutout | transform | suggests the recipe |"
    return "\n".join([head, "| --- | ---: | --- | --- | ---: | --- | --- |", *rows, ""])


def models() -> str:
    """Return the names of the recipes and models."""
    listed = {"Recipes": RECIPES, "Models": MODELS}
    return "".join(f"{kind}: {', '.join(f'`{name}`' for name in names)}.\n\n" for kind, names in listed.items())


PARTS: dict[str, Callable[[], str]] = {"data-sets": data_sets, "augmentations": presets, "recipes": models}


def generated(page: str) -> str:
    """Return the generated part of a page with its markers."""
    return BEGIN + "\n" + PARTS[page]() + "\n" + END


def main() -> None:
    """Print the parts, or write them into their pages."""
    options = argparse.ArgumentParser(prog="python -m tests.generated_docs", description=__doc__)
    options.add_argument("--write", action="store_true", help="replace them in docs/")
    write = options.parse_args().write
    for page in PARTS:
        path = DOCS / f"{page}.md"
        if write:
            before, _, rest = path.read_text().partition(BEGIN)
            path.write_text(before + generated(page) + rest.partition(END)[2])
        else:
            sys.stdout.write(generated(page))
    if write:
        command_line.write()


if __name__ == "__main__":
    main()
