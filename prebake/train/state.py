"""Settings, progress and measurements of a run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from prebake.train.recipes import Recipe

__all__ = ["EpochReport", "Saved", "Settings", "State"]


@dataclass(frozen=True)
class Settings:
    """Everything but the shards that a run's outcome depends on. None stands for an option that was not given.

    Attributes:
        model_sha256: of the source code of a user's own model.
    """

    recipe: Recipe
    seed: int
    device: str
    precision: str
    compiled: bool = False
    shuffle_seed: int | None = None
    sync_batchnorm: bool | None = None
    model_sha256: str | None = None


@dataclass(frozen=True)
class EpochReport:
    """Results of one epoch: losses in nats, accuracies from 0 to 1, images per second, seconds of each activity.

    `train_loss` includes the recipe's label smoothing, `held_out_loss` does not. `lr` is the learning rate at the end
    of the epoch. `held_out` names the split that was evaluated; it is None without one. `train_seconds` contains
    `wait_seconds`, but not `evaluate_seconds`.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    held_out: str | None
    held_out_loss: float | None
    held_out_accuracy: float | None
    lr: float
    images_per_second: float
    train_seconds: float
    wait_seconds: float
    evaluate_seconds: float


@dataclass
class State:
    """Progress of a run, and its measurements.

    A killed run repeats its steps since the last checkpoint. The time that they took the first time is not counted.

    Attributes:
        epoch: number of finished epochs.
        step: number of steps in the epoch after them.
        train_seconds: of the steps of this epoch so far.
        waits: seconds that each step waited for its batch, in the process that waited longest.
        world_sizes: numbers of processes that took the steps, in order.
    """

    epoch: int = 0
    step: int = 0
    train_seconds: float = 0.0
    first_loss: float = 0.0
    compile_seconds: float = 0.0
    reports: list[EpochReport] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    world_sizes: list[int] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return all but the waits, which are many."""
        return {key: value for key, value in asdict(self).items() if key != "waits"}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], waits: list[float]) -> "State":
        """Restore what `to_json` returned; raises TypeError and KeyError over something else."""
        reports = [EpochReport(**report) for report in content["reports"]]
        return cls(**{**content, "reports": reports, "waits": waits})


@dataclass(frozen=True)
class Saved:
    """A trainer's state between two steps: tensors by name, and plain JSON values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]
