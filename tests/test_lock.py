"""One writer a directory, and nothing but a plain file serves as its lock."""

import os
import platform
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from prebake.errors import DataError
from prebake.storage.lock import LOCK, NOTE_BYTES, add_bake_seconds, bake_seconds, is_locked, locked
from tests.attacks.kinds import socket_at
from tests.helpers.sessions import Session
from tests.helpers.trials import trial

Record = Callable[[str, object], None]
LONG = ("--dataset", "digits", "--epochs", 900, "--workers", 1, "--out")  # ends when it is killed


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow, id="twenty")])
def test_of_two_bakes_at_once_one_runs_and_the_other_names_it(
    rounds: int, tmp_path: Path, record_property: Record
) -> None:
    for number in range(rounds):
        out = tmp_path / str(number)
        both = [Session.start("precompute", *LONG, out) for _ in range(2)]
        while all(session.process.poll() is None for session in both):
            os.sched_yield()
        loser, winner = sorted(both, key=lambda session: session.process.poll() is None)
        code, said, err = loser.ended()
        assert (code, said) == (3, "")
        assert f"process {winner.process.pid} on {platform.node()!r} is baking here; wait until" in err
        assert [line.startswith("error:") for line in err.splitlines()][-1:] == [True]
        winner.wait_for((out / "digits" / "train-e000-000.json").exists)
        assert is_locked(out / "digits")
        winner.send(signal.SIGKILL)
        assert winner.ended()[0] == -signal.SIGKILL
        assert not is_locked(out / "digits")
        with locked(out / "digits"):
            pass
    record_property("cases", rounds)


IN_ITS_PLACE: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "directory": Path.mkdir,
    "link": lambda path: path.symlink_to(path.with_name("mine")),
    "link to a device": lambda path: path.symlink_to("/dev/full"),
    "socket": socket_at,
}


@pytest.mark.parametrize("kind", IN_ITS_PLACE)
def test_an_irregular_lock_file_is_refused_without_waiting(kind: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    IN_ITS_PLACE[kind](tmp_path / LOCK)

    def take() -> None:
        with locked(tmp_path):
            pass

    def act() -> None:
        for ask in (take, lambda: is_locked(tmp_path)):
            with pytest.raises(DataError, match=r"bake\.lock: expected a regular file .* remove it"):
                ask()
        assert bake_seconds(tmp_path) is None

    ended = trial(act, seconds=20)
    assert ended.status == 0, ended.said
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 1000,
        b'{"seconds": ' + b"9" * 5000,
        b'{"seconds": NaN}',
        b'{"seconds": 1e999}',
        b'{"seconds": -1}',
        b'{"seconds": "1"}',
        b"[" * 1000,
        b'{"pid": 1, "host": 2, "other": "' + b"x" * 900 + b'"}',
    ],
)
def test_a_lock_file_of_any_content_is_replaced(content: bytes, tmp_path: Path) -> None:
    (tmp_path / LOCK).write_bytes(content)
    assert bake_seconds(tmp_path) is None
    with locked(tmp_path):
        add_bake_seconds(tmp_path, 1.5)
        add_bake_seconds(tmp_path, 2)
    assert (tmp_path / LOCK).stat().st_size == NOTE_BYTES
    assert b"other" not in (tmp_path / LOCK).read_bytes()
    assert bake_seconds(tmp_path) == 3.5
