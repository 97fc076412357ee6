"""python -m tests.sync OUT: under torchrun, train with synchronized batch norm in processes that share one GPU."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from shards import ShardSet
from train.loop import Trainer
from train.recipes import recipe_for
from train.state import Settings
from train.world import World

SETTINGS = Settings(recipe_for("digits", epochs=2), 0, "cuda", "fp32", sync_batchnorm=True)


def trained(data: ShardSet, world: World) -> dict[str, torch.Tensor]:
    """Train two epochs, and return model and statistics, on the CPU."""
    torch.backends.cudnn.allow_tf32 = False
    trainer = Trainer(data, SETTINGS, world=world)
    for _ in trainer.run():
        pass
    trainer.learner.settle()
    return {name: tensor.cpu() for name, tensor in trainer.learner.model.state_dict().items()}


if __name__ == "__main__":
    dist.init_process_group("gloo")  # NCCL refuses two processes on one GPU
    here = World.of_torchrun()
    found = trained(ShardSet(sys.argv[1]), here)
    torch.save(found, Path(sys.argv[2]) / str(here.rank))
    dist.destroy_process_group()
