"""A disk that fails at any moment: exit 4 and what is to be known of it, nothing half, and the re-run completes."""

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prebake.cli.run import run_command
from tests.helpers.crashes import SCENES, Stage
from tests.helpers.faults import Operations, failure
from tests.helpers.trials import trial

NAMES = sorted(SCENES.keys() - {"tasks"})
CODES = [errno.ENOSPC, errno.EIO, errno.EACCES]
EVERY = pytest.param(1, marks=pytest.mark.slow, id="every")
Record = Callable[[str, object], None]


@pytest.mark.parametrize("step", [97, EVERY])
@pytest.mark.parametrize("name", [*NAMES, pytest.param("tasks", marks=pytest.mark.slow)])
def test_a_failed_file_operation_exits_4_and_a_rerun_completes(
    name: str, step: int, tmp_path: Path, record_property: Record
) -> None:
    stage = Stage(name, tmp_path)
    faults = list(itertools.product(range(stage.operations), CODES, (False, True)))[::step]
    for number, code, for_good in faults:
        directory = stage.fresh()

        def act(directory: Path = directory, number: int = number, code: int = code, good: bool = for_good) -> None:
            Operations(directory, failure(number, code, good))

            def main() -> None:
                stage.act(directory)

            run_command(main)

        ended = trial(act)
        where = f"operation {number}, {errno.errorcode[code]}, for good: {for_good}"
        assert ended.status == 4, f"{where}: {ended.said}"
        message = ended.said.splitlines()[-1]
        assert message.startswith(f"error: {directory}"), f"{where}: {ended.said}"
        if code == errno.ENOSPC and name != "drop":
            assert "are still to be written" in message, where
            assert "are free" in message, where
        if not for_good:
            assert not list(directory.glob("*.part")), where
        stage.check(directory)
    record_property("cases", len(faults))


def test_a_disk_change_that_is_not_counted_is_noticed(tmp_path: Path) -> None:
    ways: list[Callable[[Path], object]] = [
        lambda path: path.write_bytes(b"x"),
        lambda path: path.with_suffix(".new").open("x").close(),
        lambda path: os.rename(path, path.with_suffix(".other")),  # noqa: PTH104 - that it is another call is the point
        lambda path: os.truncate(path, 0),
        lambda path: os.remove(path),  # noqa: PTH107 - as above
        lambda path: os.rmdir(path.parent / "directory"),  # noqa: PTH106 - as above
    ]
    (tmp_path / "directory").mkdir()
    path = tmp_path / "file"

    def act() -> None:
        operations = Operations(tmp_path)
        for number, way in enumerate(ways):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
            assert len(operations.missed) == number
            way(path)
            assert len(operations.missed) == number + 1

    ended = trial(act)
    assert ended.status == 0, ended.said
