"""A small ResNet with the Trainer of Hugging Face. Its own checkpoint brings back epoch and position.

pip install transformers accelerate
prebake precompute --dataset digits --epochs 25
python -m examples.huggingface_trainer shards/digits
"""

import sys
from pathlib import Path
from typing import Any

from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import get_last_checkpoint

from prebake import Loader, ShardSet


class ShardTrainer(Trainer):
    """Takes batches from a Loader as they come."""

    def get_train_dataloader(self) -> Any:
        """Return the loader that was passed as `train_dataset`."""
        return self.train_dataset

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the loader that was passed as `eval_dataset`."""
        return eval_dataset or self.eval_dataset


class LoaderState(TrainerCallback, ExportableState):
    """Keeps the position of a loader in the trainer's checkpoint."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def state(self) -> dict[str, Any]:
        """Return what the trainer saves."""
        return {"args": {}, "attributes": self.loader.state_dict()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Load what the trainer has read from its checkpoint; without one, this is the state at the start."""
        self.loader.load_state_dict(state.stateful_callbacks["LoaderState"]["attributes"])


def main(path: str, out: str = "runs/huggingface_trainer") -> None:
    """Train on every baked epoch, then print the accuracy on the test split."""
    data = ShardSet(path)
    # The loader continues at its own position. So the trainer must not skip the batches before it.
    arguments = TrainingArguments(
        out, num_train_epochs=data.epochs, learning_rate=3e-3, save_steps=10, ignore_data_skip=True, report_to="none"
    )
    options: Any = {"device": arguments.device, "columns": {"pixel_values": "images", "labels": "labels"}}
    config = ResNetConfig(embedding_size=32, hidden_sizes=[128], depths=[1], num_labels=len(data.classes))
    config.num_channels = data.image_shape("train")[2]
    loader = Loader(data, batch_size=64, drop_last=True, **options)
    trainer = ShardTrainer(
        ResNetForImageClassification(config), arguments, callbacks=[LoaderState(loader)], train_dataset=loader,
        compute_metrics=lambda found: {"accuracy": (found.predictions.argmax(1) == found.label_ids).mean()},
        eval_dataset=Loader(data, "test", batch_size=500, **options),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=get_last_checkpoint(out) if Path(out).exists() else None)
    print(f"test accuracy {trainer.evaluate()['eval_accuracy']:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
