"""`prebake compare`: runs side by side, their differing settings, and tests of the difference."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from tests.helpers.commands import Command, Ended, the_run
from tests.helpers.results import write_run, write_runs

HIGHER = {"recipe": {"name": "digits", "peak_lr": 0.2}}
FIRST, SECOND = [0.90, 0.92, 0.91], [0.93, 0.95]


@pytest.fixture
def drawn(command: Command, tmp_path: Path) -> Command:
    """Run the command; its picture is compare.png."""
    return lambda *runs: command("compare", *runs, "--out", tmp_path / "compare.png")


@pytest.fixture
def compare(drawn: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command without matplotlib, which takes most of the time."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    return drawn


@pytest.fixture
def two_settings(tmp_path: Path) -> list[Path]:
    """Three runs of one learning rate, two of another."""
    return write_runs(tmp_path / "a", FIRST) + write_runs(tmp_path / "b", SECOND, settings=HIGHER)


def test_runs_that_differ_in_the_seed_only_form_one_group(compare: Command, two_settings: list[Path]) -> None:
    ended = compare(*two_settings)
    assert ended.code == 0, ended.err
    header, *rows = ended.out.split("\n\n")[0].splitlines()
    for title in (
        "recipe",
        "seed",
        "epochs",
        "test accuracy",
        "with flip TTA",
        "with shift TTA",
        "training",
        "utilization",
    ):
        assert title in header
    cells = [[cell.strip() for cell in row.split("  ") if cell] for row in rows]
    assert [row[0] for row in cells] == ["#1", "#1", "#1", "#2", "#2"]
    assert [row[3] for row in cells] == ["0", "1", "2", "0", "1"]
    assert [row[5] for row in cells] == ["90.00 %", "92.00 %", "91.00 %", "93.00 %", "95.00 %"]
    assert [row[6:11] for row in cells] == [["-", "-", "-", "40.0 s", "97.50 %"]] * 5
    assert [row[-1] for row in cells] == list(map(str, two_settings))


def test_run_without_shift_tta_is_compared_with_one_that_has_it(compare: Command, tmp_path: Path) -> None:
    summary = {"test_accuracy_tta": 0.92, "test_accuracy_shift_tta": 0.93}
    runs = [write_run(tmp_path / "old", 0.9), write_run(tmp_path / "new", 0.91, settings=HIGHER, summary=summary)]
    ended = compare(*runs)
    assert ended.code == 0, ended.err
    old, new = ([cell for cell in row.split("  ") if cell] for row in ended.out.splitlines()[1:3])
    assert [cell.strip() for cell in old[5:8]] == ["90.00 %", "-", "-"]
    assert [cell.strip() for cell in new[5:8]] == ["91.00 %", "92.00 %", "93.00 %"]
    assert ended.out.count("with shift TTA: 93.00 %, n = 1") == 1


def test_only_differing_settings_are_listed(compare: Command, two_settings: list[Path]) -> None:
    told = compare(*two_settings).out.split("\n\n")[1]
    assert [line.split() for line in told.splitlines()] == [["setting", "#1", "#2"], ["recipe.peak_lr", "0.1", "0.2"]]


def test_difference_is_that_of_welchs_test(compare: Command, two_settings: list[Path]) -> None:
    told = compare(*two_settings).out
    wanted = scipy.stats.ttest_ind(SECOND, FIRST, equal_var=False)
    interval = wanted.confidence_interval(0.95)
    assert (
        f"#2 against #1: +3.00 points of test accuracy, 95 % interval {100 * interval.low:+.2f} to "
        f"{100 * interval.high:+.2f} (contains zero), p = {wanted.pvalue:.2g}"
    ) in told
    assert "mean 91.00 %, standard deviation 1.00 points, 95 % interval of the mean 88.52 to 93.48 %" in told


def test_json_has_runs_differing_settings_and_tests(compare: Command, two_settings: list[Path]) -> None:
    ended = compare(*two_settings, "--json")
    found = json.loads(ended.out)
    assert [(run["group"], run["test_accuracy"]) for run in found["runs"]][2:4] == [("#1", 0.91), ("#2", 0.93)]
    assert found["differing"] == {"recipe.peak_lr": [0.1, 0.2]}
    assert [(group["group"], group["seeds"]) for group in found["groups"]] == [("#1", [0, 1, 2]), ("#2", [0, 1])]
    (test,) = found["differences"]
    assert (test["group"], test["from"], test["mean"]) == ("#2", "#1", pytest.approx(0.03))
    assert test["p"] == pytest.approx(scipy.stats.ttest_ind(SECOND, FIRST, equal_var=False).pvalue)


def test_single_runs_get_the_binomial_error_and_no_test(compare: Command, tmp_path: Path) -> None:
    ended = compare(write_run(tmp_path / "a", 0.9), write_run(tmp_path / "b", 0.93, settings=HIGHER))
    assert ended.code == 0, ended.err
    assert "90.00 %, n = 1: no standard deviation" in ended.out
    # sqrt(0.9 * 0.1 / 1000)
    assert "1,000 test images give an accuracy a standard error of 0.95 points (binomial)" in ended.out
    assert "#2 against #1: +3.00 points of test accuracy; no test: it needs at least 2 runs" in ended.out
    assert "p =" not in ended.out


def test_equal_accuracies_get_no_test(compare: Command, tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "a", [0.9, 0.9]) + write_runs(tmp_path / "b", [0.8, 0.8], settings=HIGHER)
    assert "-10.00 points of test accuracy; no test: all runs of a setting have the same" in compare(*runs).out


def test_different_data_sets_are_not_compared(compare: Command, tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "a", FIRST) + write_runs(tmp_path / "b", SECOND, settings={"dataset": "mnist"})
    assert "#2 against #1: not compared: digits and mnist are different data sets" in compare(*runs).out


def test_runs_without_a_test_split_get_no_test(compare: Command, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a", None), write_run(tmp_path / "b", None, settings=HIGHER)]
    ended = compare(*runs)
    assert ended.code == 0, ended.err
    assert "test accuracy: no test split" in ended.out
    assert "no test: a setting has no test accuracy" in ended.out


def test_settings_are_compared_on_validation_if_all_runs_have_it(compare: Command, tmp_path: Path) -> None:
    runs = [
        write_run(
            tmp_path / f"{name}{seed}", 0.9 - gain, settings={"seed": seed, **more}, summary={"val_accuracy": found}
        )
        for name, more, gain in (("a", {}, 0.0), ("b", HIGHER, 0.1))
        for seed, found in enumerate((0.7 + gain, 0.72 + gain))
    ]
    told = compare(*runs).out
    assert "#2 against #1: +10.00 points of validation accuracy, 95 % interval" in told
    assert "validation accuracy: mean 71.00 %" in told
    (test,) = json.loads(compare(*runs, "--json").out)["differences"]
    assert (test["score"], test["mean"]) == ("val_accuracy", pytest.approx(0.1))
    assert "points of test accuracy" in compare(*runs, write_run(tmp_path / "c", 0.9, settings={"seed": 9})).out


def test_other_versions_are_another_setting(compare: Command, tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [0.9, 0.91])
    log = runs[1] / "log.jsonl"
    log.write_text(log.read_text().replace('"torch": "2.6"', '"torch": "2.15"'))
    told = compare(*runs).out.split("\n\n")[1]
    assert [line.split() for line in told.splitlines()] == [["setting", "#1", "#2"], ["versions.torch", "2.6", "2.15"]]


def test_shuffling_is_a_setting_but_its_seed_is_not(compare: Command, tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / f"{seed}-{order}", 0.9, settings={"seed": seed, "shuffle_seed": order})
        for seed, order in ((0, None), (0, 5), (1, 6))
    ]
    found = json.loads(compare(*runs, "--json").out)
    assert [group["runs"] for group in found["groups"]] == [1, 2]
    assert found["groups"][1]["shuffle_seeds"] == [5, 6]
    assert found["differing"] == {"shuffle_seed": [None, "any"]}


def test_run_named_twice_counts_once_and_a_copy_is_warned_about(compare: Command, tmp_path: Path) -> None:
    (run,) = write_runs(tmp_path / "a", [0.9])
    assert compare(run, run / ".." / run.name).out.count("97.50 %") == 1
    copy = shutil.copytree(run, tmp_path / "copy")
    assert "warning: runs with the same seed are not independent" in compare(run, copy).out


def test_several_tests_are_reported_as_uncorrected(compare: Command, two_settings: list[Path], tmp_path: Path) -> None:
    third = write_runs(tmp_path / "c", [0.8, 0.9], settings={"recipe": {"name": "digits", "peak_lr": 0.3}})
    assert "not corrected" not in compare(*two_settings).out
    told = compare(*two_settings, *third).out
    assert "These are 2 tests; their p values are not corrected for that." in told
    assert "#3 against #1: " in told


def test_picture_changes_with_the_results(drawn: Command, two_settings: list[Path], tmp_path: Path) -> None:
    ended = drawn(*two_settings)
    assert "compare.png" in ended.err
    with Image.open(tmp_path / "compare.png") as image:
        assert image.format == "PNG"
        before = np.asarray(image)
    write_run(tmp_path / "worse", 0.3, curve=(0.1, 0.3))
    drawn(*two_settings, tmp_path / "worse")
    with Image.open(tmp_path / "compare.png") as image:
        assert not np.array_equal(np.asarray(image), before)


def test_without_matplotlib_there_is_a_table_and_a_hint(
    drawn: Command, two_settings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_it = drawn(*two_settings).out
    (tmp_path / "compare.png").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ended = drawn(*two_settings)
    assert (ended.code, ended.out) == (0, with_it)
    assert 'compare.png is not drawn: a drawing needs the package matplotlib: pip install -e ".[report]"' in ended.err
    assert not (tmp_path / "compare.png").exists()


def test_runs_of_the_trainer_can_be_compared(finished: tuple[Ended, Path], compare: Command) -> None:
    ended = compare(the_run(finished[1]), "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["groups"][0]["test_samples"] == 100
    assert found["groups"][0]["test_accuracy"]["mean"] == found["runs"][0]["test_accuracy"]


def test_directory_without_a_finished_run_is_refused(compare: Command, tmp_path: Path) -> None:
    ended = compare(tmp_path)
    assert (ended.code, ended.out) == (3, "")
    assert f"error: {tmp_path}: no finished run here (no summary.json)" in ended.err


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", "{"),
        ("summary.json", "[]"),
        ("summary.json", "{}"),
        ("summary.json", "\xff"),
        ("log.jsonl", ""),
        ("log.jsonl", "3\n"),
        ("log.jsonl", '{"event": "start", "settings": 3, "versions": {}}\n'),
        ("log.jsonl", '{"event": "start", "settings": {}, "versions": {}}\n{"event": "epoch"}\n'),
    ],
)
def test_damaged_files_are_refused_by_name(file: str, content: str, compare: Command, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 0.9)
    (run / file).write_bytes(content.encode("latin-1"))
    ended = compare(run)
    assert (ended.code, ended.out) == (3, "")
    assert ended.err.startswith(f"error: {run}")
    assert file in ended.err


@pytest.mark.parametrize("key", ["dataset", "recipe", "epochs", "seed", "seconds", "utilization", "test_accuracy_tta"])
def test_summary_that_lacks_a_key_is_refused(key: str, compare: Command, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 0.9)
    summary = json.loads((run / "summary.json").read_text())
    del summary[key]
    (run / "summary.json").write_text(json.dumps(summary))
    ended = compare(run)
    assert (ended.code, ended.out) == (3, "")
    assert key in ended.err


def test_compare_without_runs_is_a_usage_error(command: Command) -> None:
    ended = command("compare")
    assert ended.code == 2
    assert "RUN" in ended.err
