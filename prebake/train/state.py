"""State: where a run stands, and what it has measured so far."""

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
    """What one epoch was: losses in nats, accuracies 0 to 1, rate of images, seconds of each activity.

    `train_loss` is what was minimized, with label smoothing where the recipe has it; `held_out_loss` is
    without. `lr` is what the schedule has come to.
    `held_out` names the split that was scored, or is None where the shards hold none.
    `train_seconds` is synchronized and contains `wait_seconds`; evaluation is apart from both.
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
    """Where a run stands: whole epochs, and steps of the one after them; and what was measured on the way.

    Seconds are those of the steps that count: where a run was killed, its steps since the last checkpoint are
    done again, and the seconds that they had taken are lost with them.

    Attributes:
        train_seconds: of the steps of this epoch so far.
        waits: seconds that each step so far waited for its batch, in the process that waited longest.
        world_sizes: how many processes took the steps, in turn.
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
        """Return all but the waits, of which there are many."""
        return {key: value for key, value in asdict(self).items() if key != "waits"}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], waits: list[float]) -> "State":
        """Take what `to_json` returned; raises TypeError and KeyError over something else."""
        reports = [EpochReport(**report) for report in content["reports"]]
        return cls(**{**content, "reports": reports, "waits": waits})


@dataclass(frozen=True)
class Saved:
    """A trainer's state at the border of two steps: tensors by name, and plain JSON values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]
