"""python -m tests.helpers.sync OUT: train with synchronized batch norm under torchrun, on one GPU."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from prebake.loader.shard_set import ShardSet
from prebake.train.distributed import ProcessGroup
from prebake.train.recipes import recipe_for
from prebake.train.state import Settings
from prebake.train.trainer import Trainer

SETTINGS = Settings(recipe_for("digits", epochs=2), 0, "cuda", "fp32", sync_batchnorm=True)


def trained(data: ShardSet, processes: ProcessGroup) -> dict[str, torch.Tensor]:
    """Train two epochs, and return model and statistics, on the CPU."""
    torch.backends.cudnn.allow_tf32 = False
    trainer = Trainer(data, SETTINGS, processes=processes)
    for _ in trainer.run():
        pass
    trainer.learner.sync_buffers()
    return {name: tensor.cpu() for name, tensor in trainer.learner.model.state_dict().items()}


if __name__ == "__main__":
    dist.init_process_group("gloo")  # NCCL refuses two processes on one GPU
    here = ProcessGroup.from_torchrun()
    found = trained(ShardSet(sys.argv[1]), here)
    torch.save(found, Path(sys.argv[2]) / str(here.rank))
    dist.destroy_process_group()
