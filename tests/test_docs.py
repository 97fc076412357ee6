"""README and FORMAT.md say what the program does."""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prebake.cli.heatmap
import prebake.cli.precompute
import prebake.cli.report
import prebake.cli.shards
import prebake.cli.train
import prebake.train.compare
import prebake.train.predict
from benchmarks import scaling
from benchmarks.table import PAGES, PARTS, table
from prebake.cli.audit import parser as audit_parser
from prebake.cli.repair import parser as repair_parser
from prebake.format.document import read_document
from prebake.loader.shard_set import ShardSet
from prebake.precompute.sources.known import DATASETS, OWN
from prebake.train.recipes import RECIPES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    """Return the text under one heading of README."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Return a parser's long options, of its commands too."""
    found = {text for action in parser._actions for text in action.option_strings if text.startswith("--")}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {text for command in action.choices.values() for text in options(command)}
    return found - {"--help"}


@pytest.mark.parametrize(
    ("title", "parsers"),
    [
        ("Baking", [prebake.cli.precompute.parser()]),
        ("Looking after shards", [*prebake.cli.shards.parsers().values(), audit_parser(), repair_parser()]),
        (
            "Training",
            [
                module.parser()
                for module in (
                    prebake.cli.train,
                    prebake.train.compare,
                    prebake.cli.heatmap,
                    prebake.train.predict,
                    prebake.cli.report,
                )
            ],
        ),
    ],
)
def test_readme_names_exactly_the_options_that_a_command_has(
    title: str, parsers: list[argparse.ArgumentParser]
) -> None:
    named = set(re.findall(r"--[a-z][a-z-]*", section(title)))
    assert named == {text for parser in parsers for text in options(parser)}


def test_readme_names_every_data_set_and_recipe() -> None:
    for name in [*DATASETS, *(f"{kind}:{own.where}" for kind, own in OWN.items())]:
        assert f"`{name}`" in section("Baking")
    for name in RECIPES:
        assert f"`{name}`" in section("Training")


def test_readme_names_every_exit_code() -> None:
    text = section("Exit codes")
    for code in (0, 2, 3, 4, 5, 130, 141, 143):
        assert re.search(rf"\b{code}\b", text)


def test_the_examples_of_readme_run(baked: ShardSet) -> None:
    lines = section("Reading shards").splitlines()
    code = "\n".join(line[4:] for line in lines if line.startswith("    ") and "wds." not in line)
    code = code.replace('"shards/cifar10"', repr(str(baked.path))).replace("batch_size=512", "batch_size=64")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - our own README
    assert names["x"].dtype == np.float32
    assert tuple(names["images"].shape) == (64, 1, 8, 8)


@pytest.mark.parametrize(("file", "table"), [("manifest.json", "Manifest"), ("train-e000-000.json", "Index")])
def test_format_names_every_field_of_a_document(baked: ShardSet, file: str, table: str) -> None:
    text = (ROOT / "shards" / "FORMAT.md").read_text().split(f"\n## {table}\n")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in text.splitlines() if line[:3] == "| `")))
    assert named == set(read_document(baked.path / file).content)


@pytest.mark.parametrize("part", PARTS)
def test_tables_hold_the_figures_of_the_results(part: str) -> None:
    assert table(part) in PAGES[part].read_text()


def test_the_arithmetic_of_scaling_is_that_of_the_format() -> None:
    assert scaling.BEGIN + scaling.tables() + scaling.END in scaling.PAGE.read_text()
