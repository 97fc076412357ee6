"""prebake report RUN: write the report of a finished run again."""

import argparse

import torch

from prebake.cli.options import user_path
from prebake.cli.parser import CommandParser, add_model_option
from prebake.errors import DataError
from prebake.format.manifest import MANIFEST
from prebake.loader.shard_set import ShardSet
from prebake.storage.files import Location, parse_path
from prebake.train.device import choose_device, choose_precision
from prebake.train.evaluate import final_split, predict
from prebake.train.report.write import write_report
from prebake.train.run_record import RunRecord
from prebake.train.weights import load_weights

__all__ = ["main", "open_shards", "parser"]


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = CommandParser(prog="prebake report", description="Write the report of a finished run again.")
    options.add_argument("run", type=user_path, metavar="RUN", help="directory of a finished run")
    options.add_argument("--shards", type=parse_path, help="shard set of the run, or its root, if it was moved")
    options.add_argument("--device", default="auto", help="auto, cuda, mps or cpu; default auto")
    add_model_option(options)
    return options


def main() -> None:
    """Evaluate the weights of the run, and write its report."""
    chosen = parser().parse_args()
    record = RunRecord.read_finished(chosen.run)
    data = open_shards(chosen.shards, record)
    if data.plan.identity != record.settings["shards"]:
        raise DataError(
            f"--shards: {chosen.run} was trained on the set {record.settings['shards']}, found {data.plan.identity} at "
            f"{data.location}; name the set that it was trained on"
        )
    device = choose_device(chosen.device)
    model = load_weights(chosen.run / "weights.safetensors", chosen.model).model
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack this form
    split = final_split(data)
    # The precision of the run, if the device is the same.
    precision = record.settings["precision"] if record.settings["device"] == str(device) else "auto"
    precision = choose_precision(precision, device)
    write_report(record, data, model, predict(model, data, split, device, precision) if split else None)
    print(chosen.run / "report.html")


def open_shards(path: Location | None, record: RunRecord) -> ShardSet:
    """Open the set at `path`, or the one in `path` with the run's data set; if that is None, the run's own set.

    Raises:
        DataError: there is no such set.
    """
    if path is None:
        path = record.shards
        if path is None:
            raise DataError(f"{record.path}: log.jsonl does not name its shards; name them with --shards DIR")
        if not (path / MANIFEST).exists():
            raise DataError(
                f"{record.path}: its shards are no longer at {path}; name their new place with --shards DIR"
            )
    return ShardSet(path if (path / MANIFEST).exists() else path / record.settings["dataset"])
