"""Synchronized batch norm: slices are normalized by the whole batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from prebake.loader.shard_set import ShardSet
from prebake.train.distributed import SINGLE_PROCESS, ProcessGroup
from prebake.train.models.fastnet import FastNet
from prebake.train.optim import Learner
from prebake.train.recipes import recipe_for
from tests.helpers.commands import ROOT
from tests.helpers.sync import trained


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Please use the new API settings to control TF32")  # torch 2.9 and later
def test_gpu_processes_train_the_same_weights_as_one(tiny: ShardSet, tmp_path: Path) -> None:
    module = ["-m", "tests.helpers.sync", str(tiny.path), str(tmp_path)]
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *module],
        cwd=ROOT,
        check=True,
        timeout=300,
    )
    ours, theirs = (torch.load(tmp_path / str(rank)) for rank in (0, 1))
    alone = trained(tiny, SINGLE_PROCESS)
    for name, tensor in alone.items():
        assert torch.equal(ours[name], theirs[name]), name
        assert torch.allclose(ours[name].float(), tensor.float(), rtol=1e-2, atol=1e-3), name


def test_sync_batchnorm_keeps_parameter_names_and_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prebake.train.optim.DistributedDataParallel", lambda model: model)  # which wants all processes
    recipe = recipe_for("fast", batch_size=64)
    device, two = torch.device("cpu"), ProcessGroup(0, 2)
    plain, synchronized = (
        Learner(
            FastNet(3, 10),
            recipe,
            steps=4,
            device=device,
            scaled=False,
            processes=two,
            sync_batchnorm=each,
        )
        for each in (False, True)
    )
    assert list(plain.tensors()) == list(synchronized.tensors())
    assert any(isinstance(module, nn.SyncBatchNorm) for module in synchronized.model.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in synchronized.model.modules())
    for ours, theirs in zip(plain.optimizer.param_groups, synchronized.optimizer.param_groups, strict=True):
        assert [each.shape for each in ours["params"]] == [each.shape for each in theirs["params"]]
        assert (ours["lr"], ours["weight_decay"]) == (theirs["lr"], theirs["weight_decay"])
