"""Benchmarks count what they say they count, and name what they leave out."""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import bake, break_even, end_to_end, measure, resizing, soak, stream, table
from benchmarks.measure import Fact, Peer
from prebake.errors import MachineError
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augmenters import LookupAugmenter
from prebake.precompute.images import SourceData, hold_out
from tests.helpers.small import files, flip_byte

PYTHON = Path(sys.executable)
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for it")
ABOUT = {"cpu": "Abacus", "cores": 2, "load_before": 0.0, "python": "3.11", "packages": {"numpy": "2.0"}}
OBEDIENT = "print('writing'); print('ready 1.2', flush=True)\nfor line in sys.stdin: print(7, flush=True)"
MORTAL = "print('ready', flush=True); input(); print('first\\nno memory left', file=sys.stderr)"
UNABLE = "import nothing_of_that_name"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of results that is empty as yet."""
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def script(directory: Path, code: str, name: str = "some_stream.py") -> Path:
    path = directory / name
    path.write_text(f"import sys\n{code}\n")
    return path


def test_a_peer_is_asked_again_and_again(tmp_path: Path) -> None:
    with Peer(PYTHON, script(tmp_path, OBEDIENT), tmp_path) as peer:
        assert (peer.version, peer(), peer()) == ("1.2", 7, 7)


def test_a_peer_that_dies_is_named_with_its_last_output(tmp_path: Path) -> None:
    with (
        Peer(PYTHON, script(tmp_path, MORTAL), tmp_path) as peer,
        pytest.raises(MachineError, match=r"some_stream\.py: ended .*\(no memory left\).*--peer"),
    ):
        peer()


def test_a_file_that_is_not_executable_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("")
    with pytest.raises(MachineError, match="Permission denied"), Peer(tmp_path / "python", tmp_path, tmp_path):
        pass


def test_peers_that_are_not_there_are_skipped_by_name(
    tmp_path: Path, digits: SourceData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SCRIPTS", tmp_path)
    script(tmp_path, UNABLE, "ffcv_stream.py")
    with contextlib.ExitStack() as stack:
        started, skipped = stream.start_peers({"ffcv": PYTHON}, digits.splits["train"], tmp_path, stack)
    assert not started
    assert skipped == {
        "FFCV": "ModuleNotFoundError: No module named 'nothing_of_that_name'",
        "tf.data": "needs --peer tfdata=PYTHON",
    }


def test_a_peer_gets_the_images(tmp_path: Path, digits: SourceData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SCRIPTS", tmp_path)
    code = "import numpy; print('ready', flush=True); input(); print(len(numpy.load(sys.argv[1] + '/labels.npy')))"
    script(tmp_path, code, "tfdata_stream.py")
    with contextlib.ExitStack() as stack:
        started, _ = stream.start_peers({"tfdata": PYTHON}, digits.splits["train"], tmp_path, stack)
        assert {name: peer() for name, peer in started.items()} == {"tf.data": 1500}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nobody=python", "NAME one of ffcv, tfdata, found 'nobody=python'"),
        ("ffcv", "expected NAME=PYTHON"),
        ("ffcv=/no/such/python", "/no/such/python: no such file; name the Python of"),
    ],
)
def test_peer_options_that_make_no_sense(text: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", type=measure.peer_option(stream.PEERS))
    assert parser.parse_args(["--peer", f"ffcv={PYTHON}"]).peer == ("ffcv", PYTHON)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--peer", text])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_contestants_alternate_and_the_first_round_is_dropped() -> None:
    calls: list[str] = []

    def contestant(name: str) -> int:
        calls.append(name)
        return 1

    rates = measure.interleaved(
        {"a": lambda: contestant("a"), "b": lambda: contestant("b")}, 2, prepare=lambda: calls.append("-")
    )
    assert "".join(calls) == "-a-b" * 3
    assert {name: len(values) for name, values in rates.items()} == {"a": 2, "b": 2}


def test_a_report_keeps_medians_ratios_and_facts(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = {"fast": [30.0, 10.0, 20.0], "slow": [5.0, 4.0, 6.0]}
    fact = measure.compared("at least 3", rates, "images/s")
    measure.report("some", rates, "slow", ABOUT, as_json=False, skipped={"other": "why"}, facts={"both": fact})
    kept = json.loads((results / "some.json").read_text())
    assert kept["rates"]["fast"] == {"median": 20, "min": 10, "max": 30, "ratio": 4}
    assert kept["rates"]["slow"]["ratio"] == 1
    assert kept["facts"]["both"]["measured"] == "4 (20 against 5 images/s)"
    assert kept["facts"]["both"]["n"] == 3
    printed = capsys.readouterr().out
    for text in ("4.000 of slow", "skipped: why", "goal: at least 3"):
        assert text in printed


@pytest.mark.usefixtures("results")
def test_the_tables_hold_rates_facts_and_what_is_not_measured() -> None:
    rates = {"fast": [20.0], "slow": [5.0]}
    measure.report("stream", rates, "slow", ABOUT, as_json=True, skipped={"other": "why"})
    facts = {"memory": Fact("at most 2", "1.5", 3), "cold": Fact("at least 1", "skipped: no disk")}
    measure.report_facts("soak", facts, ABOUT, as_json=True)
    text = table.table("speeds")
    assert (
        "| `stream` | fast | 20 | 4 |\n| `stream` | slow | 5 | 1 |\n| `stream` | other | skipped: why | |\n\n" in text
    )
    assert "| `soak` | memory | at most 2 | 1.5 | 3 |\n| `soak` | cold | at least 1 | skipped: no disk |  |\n\n" in text
    assert "`bake`: not measured." in text
    assert "`soak`: Abacus, 2 cores, Python 3.11, numpy 2.0." in text


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("part", table.PARTS)
def test_the_tables_of_nothing_are_no_error(part: str) -> None:
    assert table.table(part).count("not measured") == len(table.PARTS[part])


def test_stream_and_the_bare_loops_count_every_image(baked: ShardSet) -> None:
    samples = baked.samples("train")
    assert stream.stream_through(baked, [0, 1], 500) == 2 * samples
    for records in (1, stream.RING_RECORDS):
        for check in (True, False):
            assert stream.bare(baked, check=check, records=records)() == samples


def test_the_bare_loop_with_hashes_sees_a_damaged_byte(there: Path) -> None:
    data = ShardSet(there)
    flip_byte(there / data.plan.shards("train", 0)[0].tar, 2000)
    assert stream.bare(data, check=False, records=1)()
    with pytest.raises(RuntimeError, match="differs"):
        stream.bare(data, check=True, records=1)()


@ON_LINUX
def test_what_was_just_written_is_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    assert stream.in_memory(path)
    dropped = False
    for _ in range(50):  # the kernel may keep pages for a moment, and a check may read them ahead
        stream.forget([path])
        dropped = dropped or not stream.in_memory(path)
        time.sleep(0 if dropped else 0.1)
    assert dropped or on_tmpfs(path)
    assert path.read_bytes() == bytes(100_000)


def on_tmpfs(path: Path) -> bool:
    """Say whether a file lies in memory for good, as pages that can't be dropped do."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(mount, kind) for mount, kind in mounts if path.is_relative_to(mount)]
    return max(above, key=lambda found: len(found[0]))[1] in ("tmpfs", "overlay")


def test_plain_writing_writes_as_many_bytes(tmp_path: Path) -> None:
    for size in (0, 9, 10, 25):
        bake.write_plainly(tmp_path / "file", size, bytes(10))
        assert (tmp_path / "file").stat().st_size == size


def test_the_writer_that_is_timed_bakes_the_same_bytes(baked: ShardSet, digits: SourceData, tmp_path: Path) -> None:
    augmenter = LookupAugmenter(hold_out(digits, 0.1).splits["train"], digits.augmentation(), baked.plan)
    write = bake.writer(augmenter, baked.plan, tmp_path)
    for workers in (1, 2):
        assert write(workers) == 2 * baked.samples("train")
        found = files(tmp_path)
        assert found.items() <= files(baked.path).items()
        assert len(found) == 5
        for path in tmp_path.glob("*-*"):
            path.unlink()


def test_too_little_space_is_reported_before_the_bake(
    baked: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bake.check_space(baked.plan, tmp_path, "--work-dir")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(MachineError, match=r"are to be written, 1\.00 kB are free; .* --work-dir"):
        bake.check_space(baked.plan, tmp_path, "--work-dir")


def test_a_failed_bake_reports_its_cause(tmp_path: Path) -> None:
    failing = [sys.executable, "-c", "import sys; sys.exit('no space')"]
    process = subprocess.Popen(failing, stderr=subprocess.PIPE, text=True)
    with pytest.raises(MachineError, match="ended with code 1: no space"):
        bake.Command(tmp_path, tmp_path / "out").end(process)


@ON_LINUX
def test_memory_of_children_counts() -> None:
    child = "import time; held = bytearray(b'x') * 60_000_000; time.sleep(2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([PYTHON, "-c", parent], text=True) as process:
        peak = bake.peak_bytes(process)
    assert 60_000_000 < peak < 120_000_000


def test_opening_is_timed_set_by_set(baked: ShardSet, tiny: ShardSet) -> None:
    found = soak.opening_milliseconds({"a": baked.path, "b": tiny.path}, 3)
    assert {title: len(values) for title, values in found.items()} == {"a": 3, "b": 3}
    assert all(value > 0 for values in found.values() for value in values)


@ON_LINUX
def test_memory_is_looked_at_once_an_epoch(tiny: ShardSet) -> None:
    sizes = soak.resident_bytes(tiny, 5)
    assert len(sizes) == 5
    assert min(sizes) > 10_000_000


@pytest.mark.parametrize(
    ("bake", "baked", "on_line", "expected"),
    [(25.0, 100.0, 110.0, 3), (20.0, 100.0, 110.0, 3), (5.0, 100.0, 110.0, 1), (0.5, 100.0, 100.1, 6)],
)
def test_a_bake_has_paid_when_all_runs_from_it_took_less(
    bake: float, baked: float, on_line: float, expected: int
) -> None:
    assert break_even.runs(bake, baked, on_line) == expected
    assert bake + expected * baked < expected * on_line
    assert bake + (expected - 1) * baked >= (expected - 1) * on_line


def test_baking_never_pays_where_augmenting_on_line_is_as_fast() -> None:
    assert break_even.fact(10, 1000, [100.0], [100.0]).measured.startswith("never (")
    assert break_even.fact(10, 1000, [100.0], [50.0]).measured.startswith("after 2 runs (bake 10.0 s; a run 10 s")


def test_together_is_held_against_the_slower_of_the_two() -> None:
    rounds = [end_to_end.Round(4.0, 40.0, 42.0), end_to_end.Round(5.0, 41.0, 43.0), end_to_end.Round(4.5, 39.0, 41.0)]
    assert end_to_end.fact(rounds).measured == ("1.05 of it (42.0 s; alone the bake took 4.5 s, the training 40.0 s)")


@pytest.mark.slow
def test_an_experiment_compares_settings_seed_by_seed(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--dataset", "digits", "--images", "128", "--recipe", "resnet20", "--epochs", "5", "--seeds", "2"]
    monkeypatch.setattr("sys.argv", ["experiment", *options, "--work-dir", str(tmp_path / "work")])
    resizing.main()
    facts = json.loads((results / "resizing-digits.json").read_text())["facts"]
    assert list(facts) == ["8 pixels", "4:1,6:2,8 pixels"]
    first, second = facts.values()
    assert (first["n"], second["n"]) == (2, 2)
    pairs = zip(first["values"]["test_accuracy"], second["values"]["test_accuracy"], strict=True)
    assert second["values"]["difference"]["mean"] == pytest.approx(sum(b - a for a, b in pairs) / 2)
    assert "points against 8 pixels" in second["measured"]
