"""Objects from a user's own files and modules."""

import hashlib
from pathlib import Path

import pytest

from prebake.errors import UsageError
from prebake.user_code import import_object


def test_a_file_may_import_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "a_neighbour_of_net.py").write_text("WIDTH = 7\n")
    (tmp_path / "net.py").write_text("from a_neighbour_of_net import WIDTH\n\ndef net():\n    return WIDTH\n")
    found = import_object(f"{tmp_path / 'net.py'}:net", "--model")
    assert found.value() == 7
    assert found.source_sha256 == hashlib.sha256((tmp_path / "net.py").read_bytes()).hexdigest()


def test_a_module_is_found_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_nets.py").write_text("ANSWER = 42\n")
    monkeypatch.chdir(tmp_path)
    assert import_object("my_own_nets:ANSWER", "--model").value == 42


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no/such/file.py:Net", "--model: no file no/such/file.py"),
        ("no_such_module.at_all:Net", "--model: no module 'no_such_module'"),
        ("torch.nn:NoSuchThing", "--model: torch.nn has no 'NoSuchThing'"),
        ("file.py", "--model: expected FILE.py:NAME or package.module:NAME, found 'file.py'"),
        ("..:Net", "--model: '..' is no module's name"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        import_object(text, "--model")
    assert str(caught.value) == reason


def test_a_fault_in_the_users_code_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module_either\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_either"):
        import_object(f"{tmp_path / 'broken.py'}:net", "--model")
