"""Checkpoints: the last two, the newest that is whole, and of one run only."""

from pathlib import Path

import pytest
import torch

from prebake.errors import DataError
from prebake.train.checkpoint import Checkpoints
from prebake.train.state import Saved

SETTINGS = {"seed": 3, "rate": 0.1}


def saved(step: int) -> Saved:
    """Return what a run may save."""
    return Saved({"losses": torch.full((3,), float(step))}, {"state": {"step": step}})


def names(checkpoints: Checkpoints) -> list[str]:
    """List the files there."""
    return sorted(path.name for path in checkpoints.directory.iterdir())


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    """Those of a run that has saved none yet."""
    return Checkpoints(tmp_path / "run" / "checkpoint", SETTINGS)


def test_before_the_first_one_there_is_nothing_to_go_on_from(checkpoints: Checkpoints) -> None:
    assert checkpoints.load() is None
    assert not checkpoints.directory.exists()


def test_the_last_two_are_kept_and_the_newest_is_read(checkpoints: Checkpoints) -> None:
    for step in (9, 10, 99_999_999, 100_000_000):
        checkpoints.save(step, saved(step))
    assert names(checkpoints) == ["step-100000000.safetensors", "step-99999999.safetensors"]
    found = checkpoints.load()
    assert found is not None
    assert found.values == {"state": {"step": 100_000_000}}
    assert torch.equal(found.tensors["losses"], saved(100_000_000).tensors["losses"])


def test_saving_removes_only_partial_and_later_checkpoints(checkpoints: Checkpoints) -> None:
    checkpoints.save(5, saved(5))
    for name in ("step-00000009.safetensors", "step-00000007.safetensors.part", "mine.safetensors", "step-8"):
        (checkpoints.directory / name).write_bytes(b"")
    checkpoints.save(6, saved(6))
    kept = ["mine.safetensors", "step-00000005.safetensors", "step-00000006.safetensors", "step-8"]
    assert names(checkpoints) == kept


def test_a_damaged_one_is_passed_over_and_named(checkpoints: Checkpoints, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (5, 6):
        checkpoints.save(step, saved(step))
    (checkpoints.directory / "step-00000006.safetensors").write_bytes(b"cut")
    found = checkpoints.load()
    assert found is not None
    assert found.values == {"state": {"step": 5}}
    (line,) = capsys.readouterr().err.splitlines()
    assert "step-00000006.safetensors: not written by this program, or damaged" in line
    assert line.endswith("resuming from step-00000005.safetensors")


def test_where_all_are_damaged_it_says_so_and_what_to_do(checkpoints: Checkpoints) -> None:
    for step in (5, 6):
        checkpoints.save(step, saved(step))
        (checkpoints.directory / f"step-{step:08d}.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"no usable checkpoint \(.*00006.*; .*00005.*\); --overwrite \(overwrite"):
        checkpoints.load()


def test_one_of_another_run_is_refused(checkpoints: Checkpoints) -> None:
    checkpoints.save(5, saved(5))
    with pytest.raises(DataError, match=r"step-00000005\.safetensors: of another run"):
        Checkpoints(checkpoints.directory, {**SETTINGS, "seed": 4}).load()
