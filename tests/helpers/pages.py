"""Documentation pages: their code blocks, their links, and their examples run as a reader runs them."""

import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import prebake.cli.main

__all__ = ["ROOT", "Block", "anchors", "blocks", "commands", "links", "pages", "run_line"]

ROOT = Path(__file__).parent.parent.parent
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")


@dataclass(frozen=True)
class Block:
    """A fenced block of code: its language, the name of the file that it is, if any, and its text."""

    language: str
    title: str
    text: str


def pages() -> list[Path]:
    """Return the Markdown pages that a user reads."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    return [Block(language, title, text) for language, title, text in FENCE.findall(path.read_text())]


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the words of each command of prebake, or `python -m` command, in the code of a page."""
    text = path.read_text()
    code = [block.text for block in blocks(path) if block.language in ("bash", "sh", "text")]
    code += INDENTED.findall(FENCE.sub("", text))
    for line in re.sub(r"\\\n\s*", "", "\n".join(code)).splitlines():
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if words[:1] == ["torchrun"]:
                words = ["python", *words[words.index("-m") :]]
            if words[:3] == ["python", "-m", "prebake"]:
                words = words[2:]
            if words[:1] == ["prebake"] or words[:2] == ["python", "-m"]:
                yield words


def links(path: Path) -> list[str]:
    """Return the targets of a page's links and pictures that are no URLs."""
    found = [first or second for first, second in LINK.findall(FENCE.sub("", path.read_text()))]
    return [target for target in found if "://" not in target]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def run_line(directory: Path, words: Sequence[str]) -> None:
    """Run `prebake ...` or `python FILE` in a directory; `prebake` ends this process."""
    os.chdir(directory)
    if words[0] == "prebake":
        sys.argv = list(words)
        prebake.cli.main.main()
    assert words[0] == "python", words
    sys.path.insert(0, os.fspath(Path.cwd()))
    sys.argv = list(words[1:])
    # An absolute path: worker processes start in the directory where Python started.
    runpy.run_path(os.fspath(Path(words[1]).absolute()), run_name="__main__")
