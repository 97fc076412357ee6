"""The number of CPU threads, and the warning where other processes are busy."""

from pathlib import Path

import pytest
import torch

from prebake.errors import UsageError
from prebake.train.threads import busy_elsewhere, use_threads


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of four cores; PyTorch's own threads stay as they are."""
    chosen = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: chosen[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: chosen.__setitem__(0, threads))
    monkeypatch.setattr("prebake.train.threads.usable_cores", lambda: 4)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("prebake.train.threads.busy_elsewhere", lambda: 0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_the_default_is_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    use_threads(None)
    assert torch.get_num_threads() == 4
    monkeypatch.setattr("prebake.train.threads.usable_cores", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")  # PyTorch has read it
    use_threads(None)
    assert torch.get_num_threads() == 4
    monkeypatch.delenv("OMP_NUM_THREADS")
    use_threads(None)
    assert torch.get_num_threads() == 2


def test_a_given_number_is_used() -> None:
    use_threads(3)
    assert torch.get_num_threads() == 3
    with pytest.raises(UsageError, match="--threads: expected at least 1, found 0"):
        use_threads(0)


@pytest.mark.parametrize(("threads", "others", "advice"), [(4, 1, 3), (2, 3, 1), (4, 9, 1), (3, 1, None), (1, 9, None)])
def test_busy_cores_are_warned_about(
    threads: int, others: int, advice: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("prebake.train.threads.busy_elsewhere", lambda: others)
    use_threads(threads)
    said = capsys.readouterr().err
    assert (f"--threads {advice} may train faster" in said) if advice else not said


@pytest.mark.parametrize(("load", "running", "expected"), [(2.1, 3, 2), (2.1, 1, 0), (0.0, 5, 0)])
def test_load_counts_if_recent_and_still_there(
    load: float, running: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("sys.platform", "linux")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text(f"{load} 0 0 {running}/100 1\n")
    assert busy_elsewhere(tmp_path) == expected
