"""A disk that fails at any moment: exit 4 and what is to be known of it, nothing half, and the re-run completes."""

import errno
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.command import run_command
from tests.crashes import SCENES, Stage
from tests.faults import Operations, failure
from tests.trials import trial

CODES = [errno.ENOSPC, errno.EIO, errno.EACCES]
EVERY = pytest.param(1, marks=pytest.mark.slow, id="every")
Record = Callable[[str, object], None]


@pytest.mark.parametrize("step", [61, EVERY])
@pytest.mark.parametrize("name", SCENES)
def test_an_operation_that_fails_ends_with_4_and_the_next_run_completes(
    name: str, step: int, tmp_path: Path, record_property: Record
) -> None:
    stage = Stage(name, tmp_path)
    faults = list(itertools.product(range(stage.operations), CODES, (False, True)))[::step]
    for number, code, for_good in faults:
        directory = stage.fresh()

        def act(directory: Path = directory, number: int = number, code: int = code, good: bool = for_good) -> None:
            Operations(directory, failure(number, code, good))
            run_command(lambda: stage.act(directory) and None)

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
