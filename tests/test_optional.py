"""Optional packages: a missing one is named with its install command, a broken one with its own error."""

import sys
from pathlib import Path

import pytest

import prebake.optional
from prebake.errors import MachineError
from prebake.optional import import_optional, install_command

ROOT = Path(prebake.optional.__file__).parent.parent


def test_the_module_is_returned() -> None:
    assert import_optional("xml.dom", "report", "x").__name__ == "xml.dom"


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part"])
def test_a_missing_package_is_named_with_its_install_command(module: str) -> None:
    with pytest.raises(MachineError, match=r"--dask needs the package no_such_package: pip install -e .*\[cluster\]"):
        import_optional(module, "cluster", "--dask")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("from json import no_such_name", "ImportError: cannot import name"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_package_is_reported_with_its_own_error(
    code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_package", raising=False)
    with pytest.raises(MachineError, match=rf"broken_package, which is installed, but its import failed \({words}"):
        import_optional("broken_package", "report", "a drawing")


def test_the_install_command_fits_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert install_command("hf") == 'pip install -e ".[hf]"'
    monkeypatch.chdir(tmp_path)
    assert install_command("hf") == f'pip install -e "{ROOT}[hf]"'
    monkeypatch.setattr(prebake.optional, "_ROOT", tmp_path)  # as site-packages, which holds no pyproject.toml
    assert install_command("hf") == 'pip install "prebake[hf]"'
