"""TensorBoard logs of a run."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from prebake.optional import import_optional
from prebake.train.state import EpochReport

__all__ = ["check_tensorboard", "write_scalars"]

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
    """Raise MachineError if the package tensorboard is missing or broken."""
    import_optional("tensorboard", "tensorboard", "--tensorboard")
    import_optional("torch.utils.tensorboard", "tensorboard", "--tensorboard")


def write_scalars(reports: Iterable[EpochReport], directory: Path) -> Iterator[EpochReport]:
    """Yield the reports, and write the values of each to `directory`.

    TensorBoard drops values of later epochs that an earlier, interrupted process wrote.
    """
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
