"""Mutated sets end in an error of ours or in correct data, in time and little memory, with nothing run or written."""

import os
import pickle
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.doors import BROKEN, Guard, visit
from tests.attacks.mutations import mutate
from tests.helpers.trials import Trial, trial

MAX_SECONDS = 1.0  # of the processor, since others may be at work; whoever waits is killed
MAX_BYTES = 256 * 2**20
A_FORK = 50  # mutations; together they may take no more memory than one alone


def visits(numbers: range, whole: Path, directory: Path) -> Trial:
    """Go through all doors of these mutations in a fork; where one fails, its number and what it is are said."""

    def act() -> None:
        guard = Guard()
        mutate(0, whole, directory)
        visit(directory)  # once, so that everything is imported
        for number in numbers:
            what = mutate(number, whole, directory)
            started = time.process_time()
            try:
                # Before the visit too, since it may end the process.
                print(f"mutation {number}: {what}", flush=True)  # noqa: T201 - said to the parent
                with guard:
                    visit(directory)
            except BaseException:
                traceback.print_exc()
                raise SystemExit(1) from None
            seconds = time.process_time() - started
            if seconds > MAX_SECONDS:
                print(f"mutation {number} took {seconds:.2f} s")  # noqa: T201 - said to the parent
                raise SystemExit(1)

    return trial(act, seconds=60 + len(numbers))


@pytest.mark.parametrize(
    "count", [pytest.param(150, id="a sample"), pytest.param(10_000, id="all", marks=pytest.mark.slow)]
)
def test_a_mutated_set_is_refused_or_read_right(
    count: int, whole: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    done = 0
    for start in range(0, count, A_FORK):
        numbers = range(start, min(start + A_FORK, count))
        ended = visits(numbers, whole, tmp_path / "victim")
        assert ended.status == 0, ended.said[-3000:]
        if sys.platform == "linux" and ended.grown_bytes > MAX_BYTES:
            alone = {n: visits(range(n, n + 1), whole, tmp_path / "victim").grown_bytes for n in numbers}
            assert max(alone.values()) <= MAX_BYTES, alone
        done += len(numbers)
    assert done == count
    record_property("cases", done)


def test_a_mutation_follows_from_its_number(whole: Path, tmp_path: Path) -> None:
    for number in range(0, 60, 3):
        said = [mutate(number, whole, tmp_path / name) for name in ("first", "second")]
        assert said[0] == said[1]
        contents = [
            sorted((path.name, path.read_bytes()) for path in (tmp_path / name).iterdir() if small(path))
            for name in ("first", "second")
        ]
        assert contents[0] == contents[1]


def small(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size < 2**20


def test_the_guard_sees_forbidden_acts(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    acts: list[Callable[[], object]] = [
        lambda: file.write_text("x"),
        lambda: file.with_name("other").mkdir(),
        lambda: file.unlink(),
        lambda: os.system("true"),  # noqa: S605, S607 - it must not come so far
        lambda: subprocess.run(["true"], check=False),  # noqa: S607 - likewise
        lambda: pickle.loads(b"cos\nsystem\n."),  # noqa: S301 - likewise
        lambda: eval("1"),  # noqa: S307 - likewise
        lambda: socket.socket().connect(("127.0.0.1", 9)),
    ]
    for act in acts:

        def guarded(act: Callable[[], object] = act) -> None:
            with Guard():
                act()

        ended = trial(guarded)
        assert ended.status == BROKEN, ended.said
        assert "a reader must not: " in ended.said
