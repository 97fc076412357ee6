"""Repeats: `--runs N`, and what the runs say together."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from prebake.errors import UsageError
from prebake.format.manifest import MAX_SEED
from prebake.train.recipes import recipe_for
from prebake.train.repeats import aggregate, check_cost, check_target, describe, repeated
from prebake.train.results import read_result
from prebake.train.state import Settings
from tests.helpers.commands import ON_CPU, Command, Ended
from tests.helpers.results import write_run, write_runs


def test_a_command_trains_a_run_for_each_seed_and_sums_them_up(shards: Path, tmp_path: Path, command: Command) -> None:
    options = ("--shards", shards / "digits", "--epochs", 1, "--out", tmp_path, *ON_CPU)
    ended = command(*options, "--runs", 2, "--seed", 3, "--json", "--target", 2, "--usd-per-hour", 3)
    assert ended.code == 0, ended.err
    first, second, last = map(json.loads, ended.out.splitlines())
    assert [summary["seed"] for summary in (first, second)] == [3, 4]
    assert len(list(tmp_path.iterdir())) == 2
    summed = last["aggregate"]
    assert summed == aggregate([read_result(Path(summary["run"])) for summary in (first, second)], 2, 3)
    assert (summed["seeds"], summed["test_samples"], summed["target"]["reached"]) == ([3, 4], 100, 2)
    alone = aggregate([read_result(Path(first["run"]))], usd_per_hour=3)["cost"]
    assert first["cost"] == alone
    page = (Path(first["run"]) / "report.html").read_text()
    assert f"<td>{alone['usd']:.4f} USD at 3 USD an hour</td>" in page
    mean = (first["test_accuracy"] + second["test_accuracy"]) / 2
    assert summed["test_accuracy"]["mean"] == pytest.approx(mean)
    # Again: the finished runs are kept, a third one comes to them, and people are told the same.
    again = command(*options, "--runs", 3, "--seed", 3, "--resume", "auto")
    assert again.code == 0, again.err
    assert again.err.count("finished already") == 2
    table, told = again.out.split("\n\n")
    assert "validation accuracy" not in table
    assert len(table.splitlines()) == 4
    assert told.startswith("digits, recipe digits, 3 runs, seeds 3 to 5\n  test accuracy: mean ")
    assert "The runs read the same shards, and so share the noise of augmentation" in told


def test_without_runs_target_or_price_there_is_a_table_alone(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, command: Command
) -> None:
    assert len(finished[0].out.splitlines()) == 2
    runs = shutil.copytree(finished[1], tmp_path / "runs")
    options = ("--shards", shards / "digits", "--out", runs, "--resume", "auto", *ON_CPU)
    ended = command(*options, "--usd-per-hour", 1)
    assert "digits, recipe digits, 1 run, seed 0\n" in ended.out
    assert "cost: " in ended.out
    assert "share the noise" not in ended.out


def test_a_sum_holds_mean_deviation_interval_best_and_worst(tmp_path: Path) -> None:
    results = [read_result(path) for path in write_runs(tmp_path, [0.90, 0.92, 0.91], first_seed=5)]
    summed = aggregate(results)
    score = summed["test_accuracy"]
    assert (score["n"], score["least"], score["most"]) == (3, 0.90, 0.92)
    assert (score["mean"], score["std"]) == pytest.approx((0.91, 0.01))
    # The t of two degrees of freedom is 4.3027.
    half = 4.3027 * 0.01 / 3**0.5
    assert (score["low"], score["high"]) == pytest.approx((0.91 - half, 0.91 + half), abs=1e-6)
    assert summed["seeds"] == [5, 6, 7]
    assert summed["test_accuracy_tta"] is None
    assert summed["test_accuracy_shift_tta"] is None  # as in runs from before there was one
    assert not {"target", "cost"} & set(summed)
    assert json.loads(json.dumps(summed, allow_nan=False)) == summed


def test_shift_tta_is_summed_up_over_the_runs_that_have_it(tmp_path: Path) -> None:
    scores: list[dict[str, float]] = [{}, {"test_accuracy_shift_tta": 0.92}, {"test_accuracy_shift_tta": 0.94}]
    paths = [write_run(tmp_path / str(seed), 0.9, summary=score) for seed, score in enumerate(scores)]
    summed = aggregate([read_result(path) for path in paths])
    assert summed["test_accuracy"]["n"] == 3
    assert summed["test_accuracy_shift_tta"]["n"] == 2
    assert summed["test_accuracy_shift_tta"]["mean"] == pytest.approx(0.93)
    assert "with shift TTA: mean 93.00 %" in describe(summed)


def test_the_time_to_a_target_ends_with_the_first_epoch_that_reached_it(tmp_path: Path) -> None:
    curves = {"late": (0.5, 0.6, 0.94), "early": (0.5, 0.94, 0.93), "never": (0.9, 0.9399, 0.9)}
    results = [read_result(write_run(tmp_path / name, 0.9, curve=curve)) for name, curve in curves.items()]
    assert [result.seconds_to(0.94) for result in results] == [60.0, 40.0, None]
    summed = aggregate(results, target=94)
    assert (summed["target"]["reached"], summed["target"]["seconds"]["mean"]) == (2, 50.0)
    assert (
        "94 % on test: reached by 2 of 3 runs, after 50.0 s of training (to the end of that epoch, evaluation not "
        "counted) in the mean of these, 40.0 to 60.0 s" in describe(summed)
    )
    assert "99.9 % on test: reached by 0 of 3 runs\n" in describe(aggregate(results, target=99.9))


def test_a_target_in_percent_is_reached_by_exactly_that_share_of_images(tmp_path: Path) -> None:
    run = read_result(write_run(tmp_path / "run", 0.9))
    for right in range(9000, 10_000):
        result = replace(run, accuracies=(right / 10_000,))
        assert result.seconds_to(float(f"{right / 100:.2f}") / 100) == 20.0
        assert result.seconds_to(float(f"{(right + 1) / 100:.2f}") / 100) is None


def test_the_cost_counts_the_bake_once_and_waiting_as_training(tmp_path: Path) -> None:
    results = [read_result(path) for path in write_runs(tmp_path, [0.9, 0.9, 0.9])]
    cost = aggregate(results, usd_per_hour=3.6)["cost"]
    assert cost["seconds"] == {"precompute": 10.0, "compile": 15.0, "train": 120.0, "evaluate": 12.0}
    assert cost["usd"] == pytest.approx(157 / 1000)
    told = describe(aggregate(results, usd_per_hour=3.6))
    assert "cost: 0.1570 USD at 3.6 USD an hour: bake 10.0 s, once; " in told
    assert "compile 15.0 s, train 120.0 s, evaluate 12.0 s of all runs" in told


def test_a_bake_of_unknown_length_is_said_to_be_left_out(tmp_path: Path) -> None:
    seconds = {"precompute": None, "compile": 0.0, "train": 36.0, "wait": 1.0, "evaluate": 0.0}
    result = read_result(write_run(tmp_path / "run", 0.9, summary={"seconds": seconds}))
    summed = aggregate([result], usd_per_hour=100)
    assert summed["cost"]["usd"] == pytest.approx(1)
    assert "bake unknown and not counted" in describe(summed)


def test_repeated_settings_differ_in_their_seeds_alone() -> None:
    settings = Settings(recipe_for("digits"), 7, "cpu", "fp32")
    found = repeated(settings, 3)
    assert [each.seed for each in found] == [7, 8, 9]
    assert {(each.recipe, each.device, each.precision) for each in found} == {(settings.recipe, "cpu", "fp32")}
    assert repeated(settings, 1) == [settings]
    assert {each.shuffle_seed for each in found} == {None}
    ordered = repeated(replace(settings, shuffle_seed=40), 3)
    assert [(each.seed, each.shuffle_seed) for each in ordered] == [(7, 40), (8, 41), (9, 42)]


def test_seeds_beyond_the_last_one_are_refused() -> None:
    settings = Settings(recipe_for("digits"), MAX_SEED - 1, "cpu", "fp32")
    assert repeated(settings, 2)[1].seed == MAX_SEED
    with pytest.raises(UsageError, match=r"--runs: 3 seeds from \d+ on go beyond"):
        repeated(settings, 3)
    with pytest.raises(UsageError, match="take a smaller --shuffle-seed"):
        repeated(replace(settings, seed=0, shuffle_seed=MAX_SEED), 2)


@pytest.mark.parametrize("percent", [0.94, 0, -3, 101, float("nan")])
def test_a_target_that_is_no_percentage_is_refused(percent: float) -> None:
    with pytest.raises(UsageError, match="--target: expected a percentage over 1 and up to 100"):
        check_target(percent)


@pytest.mark.parametrize("price", [0, -1, float("nan"), float("inf")])
def test_a_price_that_is_none_is_refused(price: float) -> None:
    with pytest.raises(UsageError, match="--usd-per-hour: expected a number over 0"):
        check_cost(price)


@pytest.mark.parametrize("option", ["--runs=0", "--target=0.94", "--usd-per-hour=0"])
def test_the_command_refuses_them_before_it_trains(option: str, shards: Path, tmp_path: Path, command: Command) -> None:
    ended = command("--shards", shards / "digits", "--out", tmp_path / "runs", option, *ON_CPU)
    assert ended.code == 2
    assert option.split("=")[0] in ended.err
    assert not (tmp_path / "runs").exists()
