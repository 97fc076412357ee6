"""Out of memory: exit code 4, what was asked for, and what to try."""

import re
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from prebake.train.device import autocast
from tests.helpers.commands import ON_CPU, Command
from tests.helpers.runs import Runs, patched

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
    MemoryError(),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_a_device_that_is_full_ends_with_4_and_what_to_try(
    error: Exception, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    def full(*_: object) -> Any:
        raise error

    monkeypatch.setattr("prebake.train.trainer.autocast", full)
    ended = command("--shards", shards / "digits", "--recipe", "digits", "--out", tmp_path, *ON_CPU)
    assert ended.code == 4
    line = ended.err.splitlines()[-1]
    assert re.search(r"error: out of memory on cpu: batches of 64 in fp32, peak use \d+\.\d\d GB", line)
    assert line.endswith("Try a smaller batch (--batch-size 32), --precision bf16, or another --device")


def test_another_error_of_torch_is_a_bug_and_keeps_its_traceback(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("prebake.train.trainer.autocast", broken)
    with pytest.raises(RuntimeError, match="no such kernel"):
        command("--shards", shards / "digits", "--out", tmp_path, *ON_CPU)


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="limits memory, in a fork that trains")
def test_memory_that_is_really_full_ends_so_too(shards: Path, tmp_path: Path) -> None:
    def limit() -> None:
        def begin(device: torch.device, precision: str) -> Any:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, used + 2**20))
            torch.empty(2**30)  # more than what earlier work may have left to be used again
            return autocast(device, precision)

        patched("prebake.train.trainer.autocast", begin)

    runs = Runs(shards / "digits", tmp_path)
    ended = runs.attempt("--shards", runs.shards, "--batch-size", 200, "--out", tmp_path, *ON_CPU, first=limit)
    assert ended.status == 4, ended.said
    assert "error: out of memory on cpu: batches of 200 in fp32" in ended.said
    assert "--batch-size 100" in ended.said
