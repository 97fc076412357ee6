"""Whose code an object is: a user's or a library's. And the text of a user's code, without comments."""

import functools
import hashlib
import inspect
import io
import json
import sys
import textwrap
import tokenize
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

__all__ = ["CONSTANTS", "is_library", "is_standard", "names_in", "text_of", "version_of"]

CONSTANTS = (bool, int, float, complex, str, bytes, type(None))
INSTALLED = ("site-packages", "dist-packages")
NO_SOURCE = (OSError, TypeError, SyntaxError, IndexError)  # that `inspect` raises
LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


def is_standard(module: str) -> bool:
    """Whether a module is Python's own or prebake's."""
    return module.partition(".")[0] in (*sys.stdlib_module_names, *sys.builtin_module_names, "prebake")


def is_library(module: str) -> bool:
    """Whether a module belongs to an installed package, wherever on `sys.path` that is.

    An editable install is the user's own code: it changes without a new version.
    """
    top = module.partition(".")[0]
    loaded = sys.modules.get(module) or sys.modules.get(top)
    if loaded is None or top == "__main__":
        return False
    if getattr(loaded, "__file__", None) is None and not hasattr(loaded, "__path__"):
        return True  # built into the interpreter or another module
    file = Path(getattr(loaded, "__file__", None) or next(iter(loaded.__path__), ".")).absolute()
    owners = _distributions(top)
    if any(map(_is_editable, owners)):
        return False
    # A user's module may have the name of an installed one, and comes before it on sys.path.
    roots = [Path(str(owner.locate_file(""))).absolute() for owner in owners if owner.read_text("METADATA")]
    if any(file.is_relative_to(root) or file.resolve().is_relative_to(root.resolve()) for root in roots):
        return True
    return any(part in INSTALLED for part in file.parts) and version_of(top) is not None


@functools.cache
def _distributions(top: str) -> tuple[metadata.Distribution, ...]:
    """Return the installed distributions that have a top-level module."""
    found = tuple(metadata.distributions(name=top))
    names = () if found else set(_names_of_distributions().get(top, ()))
    return found or tuple(each for name in names for each in metadata.distributions(name=name))


@functools.cache
def _names_of_distributions() -> Any:
    return metadata.packages_distributions()  # takes a second where many packages are installed


def _is_editable(distribution: metadata.Distribution) -> bool:
    try:
        return bool(json.loads(distribution.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError):
        return False


def version_of(top: str) -> str | None:
    """Return the name and the version of the package of a top-level module, such as `torch 2.8.0`."""
    owners = sorted(_distributions(top), key=lambda owner: owner.metadata["Name"])
    if owners:
        name = top if owners[0].metadata["Name"].lower() == top.lower() else owners[0].metadata["Name"]
        return f"{name} {owners[0].version}"
    version = getattr(sys.modules.get(top), "__version__", None)
    return None if version is None else f"{top} {version}"


def text_of(code: FunctionType | type | ModuleType) -> str:
    """Return the source of a function, class or module without comments and docstrings.

    Without a source, return its byte code, which differs between versions of Python, or a hash of its file.
    """
    try:
        return without_comments(textwrap.dedent(inspect.getsource(code)))
    except NO_SOURCE:
        pass
    if isinstance(code, FunctionType):
        return f"{_byte_code(code.__code__)} Python {sys.version}"
    module = code if isinstance(code, ModuleType) else sys.modules.get(code.__module__)
    file = Path(getattr(module, "__file__", None) or "")
    compiled = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() and file.suffix != ".py" else ""
    if isinstance(code, ModuleType):
        return f"{code.__name__} {compiled}"
    constants = {name: value for name, value in sorted(vars(code).items()) if isinstance(value, CONSTANTS)}
    return f"{code.__qualname__} {constants} {compiled}"


def without_comments(text: str) -> str:
    """Remove comments, docstrings and empty lines. The text itself where it cannot be parsed, as half a statement."""
    lines = text.split("\n")
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return text
    removed: set[int] = set()
    significant = [each for each in tokens if each.type not in (tokenize.NL, tokenize.COMMENT)]
    for before, token, after in zip([None, *significant], significant, significant[1:], strict=False):
        starts = before is None or before.type in LAYOUT
        if token.type == tokenize.STRING and starts and after.type in LAYOUT:
            removed.update(range(token.start[0] - 1, token.end[0]))
    for token in tokens:
        row, column = token.start
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column].rstrip()
    removed.update(
        token.start[0] - 1 for token in tokens if token.type == tokenize.NL and not lines[token.start[0] - 1].strip()
    )
    return "\n".join(line for row, line in enumerate(lines) if row not in removed)


def names_in(code: CodeType) -> Iterator[str]:
    """Yield the names that byte code uses, with those of the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def _byte_code(code: CodeType) -> str:
    return f"{code.co_code.hex()} {code.co_names} {[*map(_constant, code.co_consts)]}"


def _constant(value: Any) -> str:
    if isinstance(value, frozenset):  # its order differs between processes
        return str(sorted(map(repr, value)))
    return _byte_code(value) if isinstance(value, CodeType) else repr(value)
