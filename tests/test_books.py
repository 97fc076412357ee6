"""The books: where a run lies, which runs are refused, and what its log says."""

import json
import platform
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from shards import DataError, UsageError
from train.books import Run, versions

SETTINGS: dict[str, Any] = {"dataset": "digits", "recipe": {"name": "default", "peak_lr": 0.4}, "seed": 3, "epochs": 2}


def events(run: Run) -> list[str]:
    """List what the log tells of, in order."""
    return [json.loads(line)["event"] for line in (run.path / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that nobody has opened yet."""
    return Run(tmp_path / "runs", SETTINGS)


def test_a_run_is_named_after_data_set_recipe_seed_and_all_settings(run: Run, tmp_path: Path) -> None:
    assert run.path.parent == tmp_path / "runs"
    assert re.fullmatch(r"digits-default-s3-[0-9a-f]{8}", run.path.name)


def test_the_name_depends_on_every_setting_and_not_on_their_order(run: Run) -> None:
    root = run.path.parent
    assert Run(root, dict(reversed(SETTINGS.items()))).path == run.path
    changed = [
        {**SETTINGS, "epochs": 3},
        {**SETTINGS, "recipe": {"name": "default", "peak_lr": 0.5}},
        {**SETTINGS, "precision": "bf16"},
    ]
    names = {Run(root, settings).path.name for settings in changed}
    assert len(names | {run.path.name}) == 4
    assert all(name.startswith("digits-default-s3-") for name in names)


def test_naming_a_run_makes_nothing(run: Run) -> None:
    assert not run.path.parent.exists()


def test_a_new_run_starts_its_log_with_settings_and_versions(run: Run) -> None:
    run.begin(0)
    (line,) = map(json.loads, (run.path / "log.jsonl").read_text().splitlines())
    assert line == {"event": "start", "settings": SETTINGS, "versions": versions()}
    assert line["versions"]["torch"] == torch.__version__
    assert line["versions"]["python"] == platform.python_version()


def test_a_finished_run_has_its_summary_a_last_log_line_and_no_checkpoint(run: Run) -> None:
    run.begin(0)
    run.checkpoint.write_bytes(b"state")
    run.log("epoch", epoch=0)
    run.finish({"test_accuracy": 0.5})
    assert json.loads((run.path / "summary.json").read_text()) == {"test_accuracy": 0.5}
    assert events(run) == ["start", "epoch", "end"]
    assert sorted(path.name for path in run.path.iterdir()) == ["log.jsonl", "summary.json"]


def test_a_finished_run_is_refused_and_left_as_it_is(run: Run) -> None:
    run.begin(0)
    run.finish({"test_accuracy": 0.5})
    with pytest.raises(UsageError, match=f"{run.path.name}: this run is finished already; --overwrite"):
        run.refuse_existing()
    assert run.finished() == {"test_accuracy": 0.5}
    assert events(run) == ["start", "end"]


def test_a_begun_run_is_refused(run: Run) -> None:
    run.refuse_existing()
    run.begin(0)
    with pytest.raises(UsageError, match=f"{run.path.name}: this run was begun; --resume auto"):
        run.refuse_existing()
    assert run.finished() is None
    assert events(run) == ["start"]


def test_a_run_that_goes_on_keeps_the_lines_of_the_epochs_before(run: Run) -> None:
    run.begin(0)
    for epoch in range(4):
        run.log("epoch", epoch=epoch)
    run.begin(2)
    run.log("epoch", epoch=2)
    assert events(run) == ["start", "epoch", "epoch", "resume", "epoch"]
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["event"] == "epoch"] == [0, 1, 2]


def test_a_run_that_starts_anew_begins_an_empty_log(run: Run) -> None:
    run.begin(0)
    run.log("epoch", epoch=0)
    run.begin(0)
    assert events(run) == ["start"]


def test_a_summary_that_is_no_json_is_not_usable(run: Run) -> None:
    run.begin(0)
    run.finish({})
    (run.path / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"summary\.json: not JSON"):
        run.finished()


def test_removing_leaves_nothing_of_a_run(run: Run) -> None:
    run.remove()
    run.begin(0)
    run.weights.write_bytes(b"old")
    run.finish({"test_accuracy": 0.5})
    run.remove()
    assert not run.path.exists()


def test_removing_one_run_leaves_its_neighbours(run: Run) -> None:
    other = Run(run.path.parent, {**SETTINGS, "seed": 4})
    for each in (run, other):
        each.begin(0)
    other.finish({"seed": 4})
    run.remove()
    assert json.loads((other.path / "summary.json").read_text()) == {"seed": 4}
