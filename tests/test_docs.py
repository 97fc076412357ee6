"""The documentation says what the program does."""

import functools
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.table import PAGES, PARTS, table
from prebake.cli.completion import all_parsers
from prebake.cli.main import COMMANDS
from prebake.format.document import read_document
from prebake.loader.shard_set import ShardSet
from prebake.train.recipes import SETTABLE
from tests import command_line, generated_docs
from tests.helpers import pages
from tests.helpers.pages import ROOT
from tests.helpers.trials import trial

DOCS = ROOT / "docs"
EXAMPLES = (
    "getting-started",
    "data-sets",
    "shards",
    "adding-a-source",
    "adding-a-model",
    "adding-a-transform",
    "python",
)
# A longer training of a larger model would show no more.
SHORTER = dict.fromkeys(
    ("prebake train --shards shards/", "prebake train --shards shards/digits"), " --epochs 1 --recipe resnet20"
)


def names(page: str) -> set[str]:
    """Return the words in code style on a page."""
    return set(re.findall(r"`([^`\n]+)`", (DOCS / f"{page}.md").read_text()))


def resolve(name: str) -> object:
    """Return the object that a dotted name such as `prebake.loader.loader.Loader` means."""
    module, _, rest = name.partition(".")
    found: object = importlib.import_module(module)
    for part in rest.split("."):
        module = f"{module}.{part}"
        found = getattr(found, part) if hasattr(found, part) else importlib.import_module(module)
    return found


def test_readme_has_at_most_130_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_the_command_line_page_lists_every_option() -> None:
    written = command_line.PAGE.read_text()
    assert command_line.BEGIN + command_line.reference() + command_line.END in written, (
        "run python -m tests.command_line --write"
    )


@pytest.mark.parametrize("path", pages.pages(), ids=lambda path: path.name)
def test_every_command_in_the_docs_is_accepted(path: Path) -> None:
    parsers = all_parsers()
    for words in pages.commands(path) if path != command_line.PAGE else ():
        if words[0] == "python":
            assert importlib.util.find_spec(words[2]), words
            words = ["prebake", *words[2:]] if words[2] in ("precompute", "train") else []
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        if words[1:2] in ([], ["COMMAND"]) or "--help" in options or "[" in " ".join(words):
            continue
        assert words[1] in COMMANDS, words
        parsers[words[1]].parse_args(words[2:])


@pytest.mark.parametrize("path", pages.pages(), ids=lambda path: path.name)
def test_every_command_named_in_the_text_exists(path: Path) -> None:
    parsers = all_parsers()
    for text in re.findall(r"`prebake ([a-z][^`]*)`", path.read_text()):
        command, *words = text.split()
        assert command in COMMANDS, text
        known = {option for action in parsers[command]._actions for option in action.option_strings}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, text


@pytest.mark.parametrize("path", pages.pages(), ids=lambda path: path.name)
def test_every_link_in_the_docs_resolves(path: Path) -> None:
    for link in pages.links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert not anchor or anchor in pages.anchors(target), link


@pytest.mark.slow
@pytest.mark.parametrize("page", EXAMPLES)
def test_the_examples_of_a_page_run(page: str, tmp_path: Path) -> None:
    ran = 0
    for block in pages.blocks(DOCS / f"{page}.md"):
        if block.title:
            (tmp_path / block.title).write_text(block.text)
        elif block.language == "bash":
            for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
                words = shlex.split(line + SHORTER.get(line, ""), comments=True)
                ended = trial(functools.partial(pages.run_line, tmp_path, words), seconds=300)
                assert ended.status == 0, f"{line}\n{ended.said}"
                ran += 1
    assert ran


@pytest.mark.parametrize("path", pages.pages(), ids=lambda path: path.name)
def test_code_that_the_docs_name_exists(path: Path) -> None:
    for name in re.findall(r"(?:`|::: )(prebake(?:\.\w+)+)(?:`|\n|\()", path.read_text()):
        assert resolve(name) is not None, name


@pytest.mark.parametrize("path", pages.pages(), ids=lambda path: path.name)
def test_included_files_exist(path: Path) -> None:
    included = re.findall(r"^--8.*$", path.read_text(), re.MULTILINE)
    for line in included:  # a formatter must not have changed the line
        found = re.fullmatch(r'--8<-- "([^"]+)"', line)
        assert found, line
        assert (ROOT / found[1]).is_file(), line
    loops = {file.name for file in (ROOT / "examples").glob("*_*.py") if file.name != "__init__.py"}
    if path.name == "python.md":
        assert loops - {"webdataset_loop.py"} == {line.split("/")[1][:-1] for line in included}


@pytest.mark.parametrize("page", generated_docs.PARTS)
def test_generated_parts_of_the_docs_are_current(page: str) -> None:
    assert generated_docs.generated(page) in (DOCS / f"{page}.md").read_text(), (
        "run python -m tests.generated_docs --write"
    )


def test_the_docs_name_every_hyperparameter() -> None:
    assert set(SETTABLE) <= names("recipes")


def test_the_training_page_lists_every_exit_code() -> None:
    text = (DOCS / "training.md").read_text().split("\n## Exit codes\n")[1]
    for code in (0, 2, 3, 4, 5, 130, 141, 143):
        assert re.search(rf"^\|.*\b{code}\b.*\|.*\|$", text, re.MULTILINE), code


@pytest.mark.parametrize(("file", "heading"), [("manifest.json", "Manifest"), ("train-e000-000.json", "Index")])
def test_format_names_every_field_of_a_document(baked: ShardSet, file: str, heading: str) -> None:
    text = (ROOT / "prebake" / "format" / "FORMAT.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in text.splitlines() if line[:3] == "| `")))
    assert named == set(read_document(baked.path / file).content)


@pytest.mark.parametrize("part", PARTS)
def test_tables_hold_the_figures_of_the_results(part: str) -> None:
    assert table(part) in PAGES[part].read_text()


def test_the_scaling_page_follows_from_the_format() -> None:
    assert scaling.BEGIN + scaling.tables() + scaling.END in scaling.PAGE.read_text()


def test_the_index_of_the_log_lists_every_entry() -> None:
    text = (ROOT / "LOG.md").read_text()
    titles = re.findall(r"^## (\d{4}-.+)$", text, re.MULTILINE)
    assert re.findall(r"^- \[(\d{4}-[^\]]+)\]\(#", text, re.MULTILINE) == titles
    assert {link[1:] for link in pages.links(ROOT / "LOG.md") if link.startswith("#")} <= pages.anchors(ROOT / "LOG.md")
