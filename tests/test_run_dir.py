"""Run directories: their names, the runs that are refused, and the content of their files."""

import json
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from prebake.errors import DataError, DivergedError, UsageError
from prebake.train.run_dir import RunDir, versions
from prebake.train.run_record import RunRecord
from prebake.train.state import Saved
from tests.helpers.commands import events_of, log_of
from tests.helpers.results import SUMMARY, epoch_report

SETTINGS: dict[str, Any] = {"dataset": "digits", "recipe": {"name": "default", "peak_lr": 0.4}, "seed": 3, "epochs": 2}
SHARDS = Path("/data/shards/digits")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that was not started."""
    return RunDir.named(tmp_path / "runs", SETTINGS)


@pytest.fixture
def begun(run: RunDir) -> RunDir:
    """A run at its first step."""
    run.path.mkdir(parents=True)
    run.begin(SHARDS)
    return run


def test_run_name_has_data_set_recipe_seed_and_hash(run: RunDir, tmp_path: Path) -> None:
    assert run.path.parent == tmp_path / "runs"
    assert re.fullmatch(r"digits-default-s3-[0-9a-f]{8}", run.path.name)
    assert not run.path.parent.exists()


def test_run_name_depends_on_every_setting_but_not_on_order(run: RunDir) -> None:
    root = run.path.parent
    assert RunDir.named(root, dict(reversed(SETTINGS.items()))).path == run.path
    changed = [
        {**SETTINGS, "epochs": 3},
        {**SETTINGS, "recipe": {"name": "default", "peak_lr": 0.5}},
        {**SETTINGS, "precision": "bf16"},
    ]
    names = {RunDir.named(root, settings).path.name for settings in changed}
    assert len(names | {run.path.name}) == 4
    assert all(name.startswith("digits-default-s3-") for name in names)


def test_log_starts_with_settings_versions_and_shards(begun: RunDir) -> None:
    (line,) = log_of(begun.path)
    assert line == {"event": "start", "step": 0, "shards": str(SHARDS), "settings": SETTINGS, "versions": versions()}
    assert line["versions"]["torch"] == torch.__version__
    assert line["versions"]["python"] == platform.python_version()


def test_run_is_opened_from_its_directory_alone(begun: RunDir) -> None:
    begun.begin(Path("moved"), step=5)
    found, shards = RunDir.open(begun.path)
    assert (found.path, found.settings) == (begun.path, SETTINGS)
    assert shards == Path.cwd() / "moved"


def test_record_holds_what_the_run_wrote(begun: RunDir) -> None:
    reports = [epoch_report(epoch, accuracy) for epoch, accuracy in enumerate((0.5, 0.75))]
    for report in reports:
        begun.log("epoch", **asdict(report))
    record = begun.read()
    assert (record.settings, record.versions, record.shards) == (SETTINGS, versions(), SHARDS)
    assert (record.epochs, record.summary) == (reports, {})
    assert (record.held_out, record.held_out_accuracy) == ("test", [0.5, 0.75])
    assert record.elapsed_seconds == [20.0, 40.0]
    begun.finish(SUMMARY)
    assert RunRecord.read_finished(begun.path).summary == SUMMARY


@pytest.mark.parametrize(
    "log",
    [None, b"", b"[]\n", b'{"event": 3}\n', b"\xff\xfe\n", b"[" * 100_000, b'{"event": "start", "settings": []}\n'],
)
def test_directory_without_a_run_is_refused(tmp_path: Path, log: bytes | None) -> None:
    if log is not None:
        (tmp_path / "log.jsonl").write_bytes(log)
    with pytest.raises(DataError, match="holds no run"):
        RunDir.open(tmp_path)


def test_finished_run_has_a_summary_and_no_checkpoint(begun: RunDir) -> None:
    begun.checkpoints.save(1, Saved({}, {}))
    begun.finish(SUMMARY)
    assert json.loads((begun.path / "summary.json").read_text()) == SUMMARY
    assert events_of(begun.path) == ["start", "end"]
    assert sorted(path.name for path in begun.path.iterdir()) == ["log.jsonl", "summary.json"]


def test_finished_run_is_refused_and_unchanged(begun: RunDir) -> None:
    begun.finish(SUMMARY)
    with pytest.raises(UsageError, match=f"{begun.path.name}: this run is finished; --overwrite .* --resume auto"):
        begun.refuse_existing()
    assert begun.finished() == SUMMARY
    assert events_of(begun.path) == ["start", "end"]


def test_started_run_is_refused(run: RunDir) -> None:
    run.refuse_existing()
    run.path.mkdir(parents=True)
    run.begin(SHARDS)
    with pytest.raises(UsageError, match=f"{run.path.name}: this run was started; --resume auto"):
        run.refuse_existing()
    assert run.finished() is None
    assert events_of(run.path) == ["start"]


def test_resumed_log_keeps_the_lines_of_finished_epochs_only(begun: RunDir) -> None:
    for epoch in (0, 2, 3):  # the line of epoch 1 was lost in a crash
        begun.log("epoch", **asdict(epoch_report(epoch)))
    begun.log("end", **SUMMARY)
    begun.begin(SHARDS, [epoch_report(0), epoch_report(1)], step=7)
    begun.log("epoch", **asdict(epoch_report(2)))
    assert events_of(begun.path) == ["start", "epoch", "epoch", "resume", "epoch"]
    assert [line for line in log_of(begun.path) if line["event"] == "epoch"] == [
        {"event": "epoch", **asdict(epoch_report(epoch))} for epoch in range(3)
    ]


def test_restarted_run_has_an_empty_log(begun: RunDir) -> None:
    begun.log("epoch", **asdict(epoch_report(0)))
    begun.begin(SHARDS)
    assert events_of(begun.path) == ["start"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"dataset": 1}',
        json.dumps({**SUMMARY, "test_accuracy": "high"}).encode(),
        json.dumps({**SUMMARY, "utilization": 10**400}).encode(),
        json.dumps({**SUMMARY, "dataset": ["digits"]}).encode(),
        *(json.dumps({name: SUMMARY[name] for name in SUMMARY if name != key}).encode() for key in ("seconds", "run")),
        json.dumps({**SUMMARY, "seconds": {**SUMMARY["seconds"], "train": None}}).encode(),
    ],
)
def test_damaged_summary_is_refused_by_name(begun: RunDir, content: bytes) -> None:
    (begun.path / "summary.json").write_bytes(content)
    with pytest.raises(DataError, match=r"summary\.json: not the summary of a run"):
        begun.finished()


def test_run_without_a_line_for_each_epoch_is_refused(begun: RunDir) -> None:
    begun.finish(SUMMARY)
    with pytest.raises(DataError, match="expected one line for each epoch from 0 on, found epochs"):
        RunRecord.read_finished(begun.path)
    for line in ({}, {**asdict(epoch_report(0)), "train_seconds": "long"}, asdict(epoch_report(1))):
        begun.log("epoch", **line)
    with pytest.raises(DataError, match=r"found epochs \[1\]"):
        RunRecord.read_finished(begun.path)


def test_diverged_run_is_refused_with_its_message(begun: RunDir) -> None:
    begun.refuse_diverged()
    begun.log("diverged", message="the loss of step 3 is nan")
    with pytest.raises(DivergedError, match=r"has diverged and would diverge again \(the loss of step 3 is nan\)"):
        begun.refuse_diverged()


def test_clear_keeps_the_lock_and_files_of_others(begun: RunDir, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_bytes(b"kept")
    (begun.path / "link").symlink_to(tmp_path / "mine")
    (begun.path / "run.lock").touch()
    begun.checkpoints.save(1, Saved({}, {}))
    begun.clear()
    assert [path.name for path in begun.path.iterdir()] == ["run.lock"]
    assert (tmp_path / "mine" / "file").read_bytes() == b"kept"
