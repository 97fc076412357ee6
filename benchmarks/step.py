"""python -m benchmarks.step: how fast is a training step, and does it ever wait for data?

DavidNet on CIFAR-10 shapes. "resident": steps fed from one batch that lies ready on the device; "from
shards": the same steps fed from shards. Their ratio is the utilization. "compiled" is train --compile,
the time that compiling takes left out. Beside them, what most people run: eager float32, NCHW, an optimizer
that is not fused, fed from one resident batch.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import held_to, interleaved, machine, report
from prebake.cli.run import run_command
from prebake.errors import MachineError, UsageError
from prebake.loader.loader import Loader
from prebake.loader.shard_set import ShardSet
from prebake.precompute.bake import bake
from prebake.train.compile import check_compiler
from prebake.train.device import PRECISIONS, choose_device, choose_precision, synchronize
from prebake.train.models import find_model
from prebake.train.recipes import recipe_for
from prebake.train.state import Settings
from prebake.train.trainer import Trainer

EPOCHS = 25


def main() -> None:
    """Bake noise of CIFAR-10's shape, measure and print."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    options.add_argument("--device", default="auto", help="auto, cuda, mps or cpu; default auto")
    options.add_argument("--batch-size", type=int, default=256, help="default 256")
    options.add_argument("--steps", type=int, help="of one contestant in one round; default 4, on CUDA 97")
    options.add_argument("--repetitions", type=int, default=5, help="rounds that count; default 5")
    options.add_argument("--json", action="store_true", help="print JSON")
    arguments = options.parse_args()
    about = machine("torch", "numpy", "xxhash")
    device = choose_device(arguments.device)
    precision = choose_precision("auto", device)
    arguments.steps = arguments.steps or (97 if device.type == "cuda" else 4)
    recipe = recipe_for("page2018", batch_size=arguments.batch_size, epochs=EPOCHS)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (arguments.batch_size * 16, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, len(images))
    with tempfile.TemporaryDirectory() as directory:
        bake(images, labels, name="cifar10", epochs=EPOCHS, out=directory)
        data = ShardSet(directory)
        trainer = _trainer(data, Settings(recipe, 0, str(device), precision))
        loader = Loader(
            data,
            batch_size=arguments.batch_size,
            device=device,
            dtype=PRECISIONS[precision],
            drop_last=True,
            replay=True,
            reuse_buffers=True,
        )
        with loader:
            batches = itertools.chain.from_iterable(itertools.repeat(loader))
            ready = tuple(tensor.clone() for tensor in next(batches))
            plain, ours = "eager float32 NCHW, resident", f"prebake {precision}"
            contestants = {
                plain: _plain(trainer, ready, device, arguments.steps),
                f"{ours}, resident": _steps(trainer, itertools.repeat(ready), device, arguments.steps),
                f"{ours}, from shards": _steps(trainer, batches, device, arguments.steps),
            }
            skipped = {}
            try:
                check_compiler(device)
                compiled = _trainer(data, Settings(recipe, 0, str(device), precision, compiled=True))
                steps = _steps(compiled, itertools.repeat(ready), device, arguments.steps)
                contestants[f"{ours}, compiled, resident"] = steps
            except (MachineError, UsageError) as error:
                skipped[f"{ours}, compiled, resident"] = str(error)
            rates = interleaved(contestants, arguments.repetitions)
    goals = (
        (f"{ours}, resident", plain, "at least 2.7"),
        (f"{ours}, from shards", f"{ours}, resident", "at least 0.99"),
    )
    facts = held_to(goals, rates)
    report("step", rates, f"{ours}, resident", about, as_json=arguments.json, skipped=skipped, facts=facts)


def _trainer(data: ShardSet, settings: Settings) -> Trainer:
    trainer = Trainer(data, settings)
    if settings.compiled or trainer.device.type == "cuda":
        trainer.warm_up()
    return trainer


def _steps(
    trainer: Trainer, batches: Iterator[tuple[Tensor, ...]], device: torch.device, steps: int
) -> Callable[[], int]:
    def work() -> int:
        count = 0
        for _ in range(steps):
            images, labels = next(batches)
            trainer.step(images, labels)
            count += len(labels)
        synchronize(device)
        return count

    return work


def _plain(trainer: Trainer, ready: tuple[Tensor, ...], device: torch.device, steps: int) -> Callable[[], int]:
    recipe = trainer.settings.recipe
    torch.manual_seed(0)
    model = find_model(recipe.model).build(3, len(trainer.data.classes), (32, 32), recipe.model_options).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=0.01,
        momentum=recipe.momentum,
        nesterov=True,
        weight_decay=recipe.weight_decay,
        fused=False,
    )
    images, labels = ready[0].float().contiguous(), ready[1]

    def work() -> int:
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        synchronize(device)
        return steps * len(labels)

    return work


if __name__ == "__main__":
    run_command(main)
