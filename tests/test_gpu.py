"""`python -m benchmarks.gpu`, tried on the CPU: every question has an answer, or says why it has none."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.baselines import ResidentAugmenter
from benchmarks.bench import QUICK, Bench, rates_of_steps
from benchmarks.measure import Fact
from tests.helpers.commands import ROOT

STEPS = [
    "one resident batch",
    "from shards, float16",
    "from shards, uint8",
    "augmented on the device",
]


def ask(monkeypatch: pytest.MonkeyPatch, out: Path, *options: object) -> dict[str, Any]:
    """Run the command in this process; return its answers."""
    arguments = ["--device", "cpu", "--quick", "--out", out, *options]
    monkeypatch.setattr(sys, "argv", ["gpu", *map(str, arguments)])
    gpu.main()
    result = json.loads(out.read_text())
    assert result["question"] == "gpu"
    assert result["machine"]["gpu"] == "none"
    facts: dict[str, Any] = result["facts"]
    return facts


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Quick shards in both encodings."""
    bench = Bench(tmp_path, tmp_path, torch.device("cpu"), 0.0, quick=True)
    gpu.bake_both(bench)
    return bench


@pytest.mark.slow
def test_every_stage_answers_its_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = ask(monkeypatch, tmp_path / "gpu.json", "--stages", "bake", "default", "steps", "alone")
    assert not [fact for fact in facts.values() if "skipped" in fact["measured"]]
    assert list(facts)[:3] == ["bake, float16", "bake, uint8", "default, 2 epochs, eager"]
    steps = [f"utilization, eager, {name}" for name in [*STEPS, "torchvision, 1 workers"]]
    assert [name for name in facts if name.startswith("utilization")] == steps
    assert facts[steps[0]]["measured"].startswith("1.0000 (")
    for name in steps[1:3]:
        assert facts[name]["goal"] == "at least 0.99"
        # A first batch, then in two rounds one step to settle and two that count.
        assert facts[name]["values"]["stalls"]["of"] == (7 if "float16" in name else 6)
    assert facts["default, 2 epochs, eager"]["values"]["test_accuracy"] * 40 % 1 == pytest.approx(0)
    assert len([name for name in facts if name.startswith("alone: ")]) == 5
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in printed] == [name.split(": ")[0] for name in facts]


def test_after_a_failed_stage_the_next_one_still_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def next_one(_bench: Bench) -> dict[str, Fact]:
        # What is known already lies on the disk, in case that this stage is the last thing that happens.
        seen.append("no such kernel" in (tmp_path / "gpu.json").read_text())
        return {"an answer": Fact("", "7", 1)}

    def broken(_bench: Bench) -> dict[str, Fact]:
        raise RuntimeError("no such\nkernel")

    monkeypatch.setitem(gpu.STAGES, "bake", broken)
    monkeypatch.setitem(gpu.STAGES, "steps", next_one)
    facts = ask(monkeypatch, tmp_path / "gpu.json", "--stages", "bake", "steps")
    assert facts["bake"]["measured"] == "skipped: RuntimeError: no such kernel"
    assert facts["an answer"]["measured"] == "7"
    assert seen == [True]


def test_no_stage_begins_after_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = ask(monkeypatch, tmp_path / "gpu.json", "--seconds-limit", -1)
    assert list(facts) == list(gpu.STAGES)
    assert {fact["measured"] for fact in facts.values()} == {"skipped: no time was left (--seconds-limit)"}


def test_a_rate_counts_the_images_of_the_timed_steps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    batches = bench.on_device()
    assert isinstance(batches, ResidentAugmenter)
    taken = 0

    def counted() -> Any:
        nonlocal taken
        for batch in batches.forever():
            taken += 1
            yield batch

    trainer = bench.trainer("page2018", compiled=False)
    monkeypatch.setattr(trainer, "step", lambda *_: None)
    assert rates_of_steps(trainer, {"one": counted()}, QUICK) == {"one": [2 * 32 / 1.0]}
    assert taken == 2 * (QUICK.settling + QUICK.steps)


@pytest.mark.slow
def test_the_whole_command_runs(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick", "--json", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)["facts"]
    assert json.loads(out.read_text())["facts"] == facts
    assert not [fact for fact in facts.values() if "skipped" in fact["measured"]]
    for mode in ("eager", "compiled"):
        for recipe in ("page2018", "default"):
            assert f"{recipe}, 2 epochs, {mode}" in facts
        for name in STEPS:
            assert f"utilization, {mode}, {name}" in facts
            if sys.platform == "linux":
                assert f"two cores: utilization, {mode}, {name}" in facts
