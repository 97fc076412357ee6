"""Imports of optional packages, and the command that installs them."""

import importlib
from pathlib import Path
from types import ModuleType

from prebake.errors import MachineError

__all__ = ["import_optional", "install_command"]

_ROOT = Path(__file__).resolve().parent.parent


def install_command(extra: str) -> str:
    """Return the command that installs an extra: for a clone from the clone, otherwise by name."""
    if not (_ROOT / "pyproject.toml").is_file():
        return f'pip install "prebake[{extra}]"'
    root = "." if Path.cwd() == _ROOT else _ROOT
    return f'pip install -e "{root}[{extra}]"'


def import_optional(module: str, extra: str, needed_by: str) -> ModuleType:
    """Import a module that an extra of prebake installs.

    Args:
        module: its full name.
        extra: of prebake, such as ``remote``.
        needed_by: the option or feature that needs it, for the message.

    Raises:
        MachineError: the package is not installed, or it is installed and its import fails.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # an installed package can fail in any way
        package = module.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise MachineError(f"{needed_by} needs the package {package}: {install_command(extra)}") from None
        raise MachineError(
            f"{needed_by} needs the package {package}, which is installed, but its import failed "
            f"({type(error).__name__}: {error}); reinstall it: {install_command(extra)}"
        ) from error
