"""python -m tests.command_line: the reference of docs/command-line.md, made from the parsers of all commands.

With --write it replaces the text between the page's markers.
"""

import argparse
import sys
from pathlib import Path

from prebake.cli.completion import all_parsers
from prebake.cli.main import COMMANDS

__all__ = ["BEGIN", "END", "PAGE", "reference", "write"]

PAGE = Path(__file__).parent.parent / "docs" / "command-line.md"
BEGIN, END = "<!-- python -m tests.command_line --write -->\n", "<!-- end -->\n"


def reference() -> str:
    """Return one section of Markdown per command: its usage and its options."""
    return "\n".join(_section(name, parser) for name, parser in all_parsers().items())


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    required = [_spelled(action) for action in actions if action.required and action.option_strings]
    positional = [_positional(action) for action in actions if not action.option_strings]
    optional = ["[options]"] if len(actions) > len(required) + len(positional) else []
    usage = " ".join([f"prebake {name}", *positional, *required, *optional])
    about = (parser.description or COMMANDS[name].about).strip()
    lines = [f"## prebake {name}", "", about, "", "```text", usage, "```", ""]
    if actions:
        lines += ["| option | meaning |", "| --- | --- |"]
        lines += [f"| `{_spelled(action)}` | {_help(action, parser)} |" for action in actions] + [""]
    if parser.epilog:
        lines += [parser.epilog.strip(), ""]
    return "\n".join(lines)


def _spelled(action: argparse.Action) -> str:
    if not action.option_strings:
        return _metavar(action)
    return action.option_strings[-1] if action.nargs == 0 else f"{action.option_strings[-1]} {_values(action)}"


def _positional(action: argparse.Action) -> str:
    name = _metavar(action)
    return {"*": f"[{name} ...]", "+": f"{name} ...", "?": f"[{name}]"}.get(str(action.nargs), name)


def _values(action: argparse.Action) -> str:
    name = _metavar(action)
    return f"{name} ..." if action.nargs in ("+", "*") else name


def _metavar(action: argparse.Action) -> str:
    if action.choices and action.metavar is None:
        return f"{{{','.join(map(str, action.choices))}}}"
    name = str(action.metavar or action.dest.upper().replace("_", "-"))
    return f"{{{name.replace('|', ',')}}}" if "|" in name else name  # a | would end the table's cell


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    return " ".join(text.replace("|", " or ").split())


def write() -> None:
    """Write the reference into its page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + reference() + END + rest.partition(END)[2])


def main() -> None:
    """Print the reference, or write it into its page."""
    options = argparse.ArgumentParser(prog="python -m tests.command_line", description=__doc__)
    options.add_argument("--write", action="store_true", help="replace it in docs/command-line.md")
    if options.parse_args().write:
        write()
    else:
        sys.stdout.write(reference())


if __name__ == "__main__":
    main()
