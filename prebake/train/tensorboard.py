"""Board: a run's figures for TensorBoard."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from prebake.optional import import_optional
from prebake.train.state import EpochReport

__all__ = ["check_tensorboard", "noted"]

SCALARS = {
    "loss/train": "train_loss",
    "loss/held out": "held_out_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/held out": "held_out_accuracy",
    "lr": "lr",
    "speed/images per second": "images_per_second",
    "speed/wait seconds": "wait_seconds",
}


def check_tensorboard() -> None:
    """Ask for what the writer needs, before anybody trains in vain; raises MachineError."""
    import_optional("tensorboard", "tensorboard", "--tensorboard")
    import_optional("torch.utils.tensorboard", "tensorboard", "--tensorboard")


def noted(reports: Iterable[EpochReport], directory: Path) -> Iterator[EpochReport]:
    """Hand the reports on, each after its figures have been written; what a later epoch left there is void."""
    from torch.utils.tensorboard import SummaryWriter

    writer: SummaryWriter | None = None
    try:
        for report in reports:
            writer = writer or SummaryWriter(str(directory), purge_step=report.epoch)
            for name, key in SCALARS.items():
                if getattr(report, key) is not None:
                    writer.add_scalar(name, getattr(report, key), report.epoch)
            writer.flush()
            yield report
    finally:
        if writer is not None:
            writer.close()
