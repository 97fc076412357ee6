"""`--runs N`: repeated runs with consecutive seeds, and their statistics."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from prebake.errors import UsageError
from prebake.format.manifest import MAX_SEED
from prebake.train.recipes import recipe_for
from prebake.train.repeats import aggregate, check_cost, check_target, describe, repeated
from prebake.train.run_record import RunRecord
from prebake.train.state import Settings
from tests.helpers.commands import ON_CPU, Command, Ended
from tests.helpers.results import epoch_report, write_run, write_runs


def test_runs_option_trains_each_seed_and_aggregates(shards: Path, tmp_path: Path, command: Command) -> None:
    options = ("--shards", shards / "digits", "--epochs", 1, "--out", tmp_path, *ON_CPU)
    ended = command(*options, "--runs", 2, "--seed", 3, "--json", "--target", 2, "--usd-per-hour", 3)
    assert ended.code == 0, ended.err
    first, second, last = map(json.loads, ended.out.splitlines())
    assert [summary["seed"] for summary in (first, second)] == [3, 4]
    assert len(list(tmp_path.iterdir())) == 2
    found = last["aggregate"]
    assert found == aggregate([RunRecord.read_finished(Path(summary["run"])) for summary in (first, second)], 2, 3)
    assert (found["seeds"], found["test_samples"], found["target"]["reached"]) == ([3, 4], 100, 2)
    alone = aggregate([RunRecord.read_finished(Path(first["run"]))], usd_per_hour=3)["cost"]
    assert first["cost"] == alone
    page = (Path(first["run"]) / "report.html").read_text()
    assert f"<td>{alone['usd']:.4f} USD at 3 USD an hour</td>" in page
    mean = (first["test_accuracy"] + second["test_accuracy"]) / 2
    assert found["test_accuracy"]["mean"] == pytest.approx(mean)
    # Finished runs are kept, a third one is added, and the text has the same statistics.
    again = command(*options, "--runs", 3, "--seed", 3, "--resume", "auto")
    assert again.code == 0, again.err
    assert again.err.count("finished already") == 2
    table, told = again.out.split("\n\n")
    assert "validation accuracy" not in table
    assert len(table.splitlines()) == 4
    assert told.startswith("digits, recipe digits, 3 runs, seeds 3 to 5\n  test accuracy: mean ")
    assert "All runs read the same shards, so they share the randomness of augmentation" in told


def test_without_runs_target_or_price_only_a_table_is_printed(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, command: Command
) -> None:
    assert len(finished[0].out.splitlines()) == 2
    runs = shutil.copytree(finished[1], tmp_path / "runs")
    options = ("--shards", shards / "digits", "--out", runs, "--resume", "auto", *ON_CPU)
    ended = command(*options, "--usd-per-hour", 1)
    assert "digits, recipe digits, 1 run, seed 0\n" in ended.out
    assert "cost: " in ended.out
    assert "share the randomness" not in ended.out


def test_aggregate_has_mean_std_interval_min_and_max(tmp_path: Path) -> None:
    runs = [RunRecord.read_finished(path) for path in write_runs(tmp_path, [0.90, 0.92, 0.91], first_seed=5)]
    found = aggregate(runs)
    score = found["test_accuracy"]
    assert (score["n"], score["min"], score["max"]) == (3, 0.90, 0.92)
    assert (score["mean"], score["std"]) == pytest.approx((0.91, 0.01))
    # Student's t for two degrees of freedom is 4.3027.
    half = 4.3027 * 0.01 / 3**0.5
    assert (score["low"], score["high"]) == pytest.approx((0.91 - half, 0.91 + half), abs=1e-6)
    assert found["seeds"] == [5, 6, 7]
    assert found["test_accuracy_tta"] is None
    assert found["test_accuracy_shift_tta"] is None  # older runs lack it
    assert not {"target", "cost"} & set(found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_shift_tta_is_averaged_over_the_runs_that_have_it(tmp_path: Path) -> None:
    scores: list[dict[str, float]] = [{}, {"test_accuracy_shift_tta": 0.92}, {"test_accuracy_shift_tta": 0.94}]
    paths = [write_run(tmp_path / str(seed), 0.9, summary=score) for seed, score in enumerate(scores)]
    found = aggregate([RunRecord.read_finished(path) for path in paths])
    assert found["test_accuracy"]["n"] == 3
    assert found["test_accuracy_shift_tta"]["n"] == 2
    assert found["test_accuracy_shift_tta"]["mean"] == pytest.approx(0.93)
    assert "with shift TTA: mean 93.00 %" in describe(found)


def test_time_to_target_ends_with_the_first_epoch_reaching_it(tmp_path: Path) -> None:
    curves = {"late": (0.5, 0.6, 0.94), "early": (0.5, 0.94, 0.93), "never": (0.9, 0.9399, 0.9)}
    runs = [RunRecord.read_finished(write_run(tmp_path / name, 0.9, curve=curve)) for name, curve in curves.items()]
    assert [run.seconds_to(0.94) for run in runs] == [60.0, 40.0, None]
    found = aggregate(runs, target=94)
    assert (found["target"]["reached"], found["target"]["seconds"]["mean"]) == (2, 50.0)
    assert (
        "94 % on test: reached by 2 of 3 runs, on average after 50.0 s of training (to the end of the epoch, without "
        "evaluation), 40.0 to 60.0 s" in describe(found)
    )
    assert "99.9 % on test: reached by 0 of 3 runs\n" in describe(aggregate(runs, target=99.9))


def test_target_is_reached_by_exactly_that_share_of_images(tmp_path: Path) -> None:
    run = RunRecord.read_finished(write_run(tmp_path / "run", 0.9))
    for correct in range(9000, 10_000):
        record = replace(run, epochs=[epoch_report(0, correct / 10_000)])
        assert record.seconds_to(float(f"{correct / 100:.2f}") / 100) == 20.0
        assert record.seconds_to(float(f"{(correct + 1) / 100:.2f}") / 100) is None


def test_cost_counts_the_bake_once_and_waiting_as_training(tmp_path: Path) -> None:
    runs = [RunRecord.read_finished(path) for path in write_runs(tmp_path, [0.9, 0.9, 0.9])]
    cost = aggregate(runs, usd_per_hour=3.6)["cost"]
    assert cost["seconds"] == {"precompute": 10.0, "compile": 15.0, "train": 120.0, "evaluate": 12.0}
    assert cost["usd"] == pytest.approx(157 / 1000)
    told = describe(aggregate(runs, usd_per_hour=3.6))
    assert "cost: 0.1570 USD at 3.6 USD an hour: bake 10.0 s, once; " in told
    assert "compile 15.0 s, train 120.0 s, evaluate 12.0 s of all runs" in told


def test_cost_reports_that_an_unknown_bake_time_is_left_out(tmp_path: Path) -> None:
    seconds = {"precompute": None, "compile": 0.0, "train": 36.0, "wait": 1.0, "evaluate": 0.0}
    run = RunRecord.read_finished(write_run(tmp_path / "run", 0.9, summary={"seconds": seconds}))
    found = aggregate([run], usd_per_hour=100)
    assert found["cost"]["usd"] == pytest.approx(1)
    assert "the time of the bake is unknown and not counted" in describe(found)


def test_repeated_settings_differ_in_their_seeds_only() -> None:
    settings = Settings(recipe_for("digits"), 7, "cpu", "fp32")
    found = repeated(settings, 3)
    assert [each.seed for each in found] == [7, 8, 9]
    assert all((each.recipe, each.device, each.precision) == (settings.recipe, "cpu", "fp32") for each in found)
    assert repeated(settings, 1) == [settings]
    assert {each.shuffle_seed for each in found} == {None}
    ordered = repeated(replace(settings, shuffle_seed=40), 3)
    assert [(each.seed, each.shuffle_seed) for each in ordered] == [(7, 40), (8, 41), (9, 42)]


def test_seeds_over_the_maximum_are_refused() -> None:
    settings = Settings(recipe_for("digits"), MAX_SEED - 1, "cpu", "fp32")
    assert repeated(settings, 2)[1].seed == MAX_SEED
    with pytest.raises(UsageError, match=r"--runs: 3 seeds from \d+ on exceed"):
        repeated(settings, 3)
    with pytest.raises(UsageError, match="choose a smaller --shuffle-seed"):
        repeated(replace(settings, seed=0, shuffle_seed=MAX_SEED), 2)


@pytest.mark.parametrize("percent", [0.94, 0, -3, 101, float("nan")])
def test_target_that_is_not_a_percentage_is_refused(percent: float) -> None:
    with pytest.raises(UsageError, match="--target: expected a percentage over 1 and up to 100"):
        check_target(percent)


@pytest.mark.parametrize("price", [0, -1, float("nan"), float("inf")])
def test_price_that_is_not_positive_is_refused(price: float) -> None:
    with pytest.raises(UsageError, match="--usd-per-hour: expected a number over 0"):
        check_cost(price)


@pytest.mark.parametrize("option", ["--runs=0", "--target=0.94", "--usd-per-hour=0"])
def test_bad_options_are_refused_before_training(option: str, shards: Path, tmp_path: Path, command: Command) -> None:
    ended = command("--shards", shards / "digits", "--out", tmp_path / "runs", option, *ON_CPU)
    assert ended.code == 2
    assert option.split("=")[0] in ended.err
    assert not (tmp_path / "runs").exists()
