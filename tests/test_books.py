"""The books: where a run lies, which runs are refused, and what its log says."""

import json
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from prebake.errors import DataError, DivergedError, UsageError
from prebake.train.run_dir import Run, versions
from prebake.train.state import EpochReport, Saved
from tests.helpers.commands import log_of

SETTINGS: dict[str, Any] = {"dataset": "digits", "recipe": {"name": "default", "peak_lr": 0.4}, "seed": 3, "epochs": 2}
SUMMARY: dict[str, Any] = {
    "dataset": "digits",
    "epochs": 2,
    "test_accuracy": 0.5,
    "test_accuracy_tta": None,
    "seconds": {"train": 2.0, "wait": 0.5},
}
SHARDS = Path("/data/shards/digits")


def report(epoch: int) -> EpochReport:
    """Return what an epoch may have been."""
    return EpochReport(epoch, 1 / 3, 0.5, None, None, None, 0.1, 1e3, 1.0, 0.0, 0.0)


def events(run: Run) -> list[str]:
    """List what the log tells of, in order."""
    return [json.loads(line)["event"] for line in (run.path / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that nobody has opened yet."""
    return Run.named(tmp_path / "runs", SETTINGS)


@pytest.fixture
def begun(run: Run) -> Run:
    """A run at its first step."""
    run.path.mkdir(parents=True)
    run.begin(SHARDS)
    return run


def test_a_run_is_named_after_data_set_recipe_seed_and_all_settings(run: Run, tmp_path: Path) -> None:
    assert run.path.parent == tmp_path / "runs"
    assert re.fullmatch(r"digits-default-s3-[0-9a-f]{8}", run.path.name)


def test_the_name_depends_on_every_setting_and_not_on_their_order(run: Run) -> None:
    root = run.path.parent
    assert Run.named(root, dict(reversed(SETTINGS.items()))).path == run.path
    changed = [
        {**SETTINGS, "epochs": 3},
        {**SETTINGS, "recipe": {"name": "default", "peak_lr": 0.5}},
        {**SETTINGS, "precision": "bf16"},
    ]
    names = {Run.named(root, settings).path.name for settings in changed}
    assert len(names | {run.path.name}) == 4
    assert all(name.startswith("digits-default-s3-") for name in names)


def test_naming_a_run_makes_nothing(run: Run) -> None:
    assert not run.path.parent.exists()


def test_a_new_run_starts_its_log_with_settings_versions_and_the_place_of_its_shards(begun: Run) -> None:
    (line,) = log_of(begun.path)
    assert line == {"event": "start", "step": 0, "shards": str(SHARDS), "settings": SETTINGS, "versions": versions()}
    assert line["versions"]["torch"] == torch.__version__
    assert line["versions"]["python"] == platform.python_version()


def test_a_run_is_found_again_from_its_directory_alone(begun: Run) -> None:
    begun.begin(Path("moved"), step=5)
    found, shards = Run.open(begun.path)
    assert (found.path, found.settings) == (begun.path, SETTINGS)
    assert shards == Path.cwd() / "moved"


@pytest.mark.parametrize(
    "log",
    [None, b"", b"[]\n", b'{"event": 3}\n', b"\xff\xfe\n", b"[" * 100_000, b'{"event": "start", "settings": []}\n'],
)
def test_a_directory_in_which_no_run_was_begun_is_refused(tmp_path: Path, log: bytes | None) -> None:
    if log is not None:
        (tmp_path / "log.jsonl").write_bytes(log)
    with pytest.raises(DataError, match="holds no run that was begun"):
        Run.open(tmp_path)


def test_a_finished_run_has_its_summary_a_last_log_line_and_no_checkpoint(begun: Run) -> None:
    begun.checkpoints.save(1, Saved({}, {}))
    begun.log("epoch", epoch=0)
    begun.finish(SUMMARY)
    assert json.loads((begun.path / "summary.json").read_text()) == SUMMARY
    assert events(begun) == ["start", "epoch", "end"]
    assert sorted(path.name for path in begun.path.iterdir()) == ["log.jsonl", "summary.json"]


def test_a_finished_run_is_refused_and_left_as_it_is(begun: Run) -> None:
    begun.finish(SUMMARY)
    with pytest.raises(UsageError, match=f"{begun.path.name}: this run is finished already; --overwrite"):
        begun.refuse_existing()
    assert begun.finished() == SUMMARY
    assert events(begun) == ["start", "end"]


def test_a_begun_run_is_refused(run: Run) -> None:
    run.refuse_existing()
    run.path.mkdir(parents=True)
    run.begin(SHARDS)
    with pytest.raises(UsageError, match=f"{run.path.name}: this run was begun; --resume auto"):
        run.refuse_existing()
    assert run.finished() is None
    assert events(run) == ["start"]


def test_a_run_that_goes_on_has_the_lines_of_the_epochs_before_and_no_others(begun: Run) -> None:
    for epoch in (0, 2, 3):  # the line of epoch 1 was not written any more
        begun.log("epoch", **asdict(report(epoch)))
    begun.log("end", **SUMMARY)
    begun.begin(SHARDS, [report(0), report(1)], step=7)
    begun.log("epoch", **asdict(report(2)))
    assert events(begun) == ["start", "epoch", "epoch", "resume", "epoch"]
    assert [line for line in log_of(begun.path) if line["event"] == "epoch"] == [
        {"event": "epoch", **asdict(report(epoch))} for epoch in range(3)
    ]


def test_a_run_that_starts_anew_begins_an_empty_log(begun: Run) -> None:
    begun.log("epoch", epoch=0)
    begun.begin(SHARDS)
    assert events(begun) == ["start"]


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
        json.dumps({**SUMMARY, "seconds": {"train": 0, "wait": 0}}).encode(),
        json.dumps({**SUMMARY, "test_accuracy": "high"}).encode(),
        json.dumps({**SUMMARY, "seconds": {"train": 10**400, "wait": 0}}).encode(),
        json.dumps({**SUMMARY, "dataset": ["digits"]}).encode(),
    ],
)
def test_a_stranger_s_summary_is_refused_in_words(begun: Run, content: bytes) -> None:
    (begun.path / "summary.json").write_bytes(content)
    with pytest.raises(DataError, match=r"summary\.json: (not JSON|no summary of a run)"):
        begun.finished()


def test_a_run_that_has_diverged_says_so_again(begun: Run) -> None:
    begun.refuse_diverged()
    begun.log("diverged", message="the loss of step 3 is nan")
    with pytest.raises(DivergedError, match=r"has diverged, and would again \(the loss of step 3 is nan\)"):
        begun.refuse_diverged()


def test_clearing_leaves_nothing_of_a_run_but_its_lock_and_nothing_of_others_is_touched(
    begun: Run, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_bytes(b"kept")
    (begun.path / "link").symlink_to(tmp_path / "mine")
    (begun.path / "run.lock").touch()
    begun.checkpoints.save(1, Saved({}, {}))
    begun.clear()
    assert [path.name for path in begun.path.iterdir()] == ["run.lock"]
    assert (tmp_path / "mine" / "file").read_bytes() == b"kept"
