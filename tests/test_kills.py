"""A kill at any moment leaves no damaged file under a final name, and the same command resumes."""

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.crashes import SCENES, Stage
from tests.helpers.faults import Operations, kill
from tests.helpers.small import bake
from tests.helpers.trials import trial

EVERY = pytest.param(1, marks=pytest.mark.slow, id="every")
Record = Callable[[str, object], None]


@pytest.mark.parametrize("step", [13, EVERY])
@pytest.mark.parametrize("name", SCENES)
def test_a_bake_killed_at_any_file_operation_can_be_resumed(
    name: str, step: int, tmp_path: Path, record_property: Record
) -> None:
    stage = Stage(name, tmp_path)
    numbers = sorted({*range(0, stage.operations, step), stage.operations - 1})
    for number in numbers:
        directory = stage.fresh()

        def act(directory: Path = directory, number: int = number) -> None:
            Operations(directory, kill(number))
            stage.act(directory)

        assert trial(act).status == -signal.SIGKILL
        stage.check(directory)
    record_property("cases", len(numbers))


@pytest.mark.parametrize("count", [6, pytest.param(100, marks=pytest.mark.slow, id="hundred")])
def test_two_workers_killed_at_random_leave_no_damage(count: int, tmp_path: Path, record_property: Record) -> None:
    stage = Stage("bake", tmp_path)
    rng = random.Random(count)  # noqa: S311 - no secrets
    for _ in range(count):
        directory, number = stage.fresh(), rng.randrange(stage.operations)

        def act(directory: Path = directory, number: int = number) -> None:
            Operations(directory, kill(number))
            bake(directory, val_fraction=0, workers=2)

        assert trial(act).status == -signal.SIGKILL
        stage.check(directory)
    record_property("cases", count)
