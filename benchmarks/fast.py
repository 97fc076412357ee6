"""python -m benchmarks.fast: what each part of the recipe `fast` is worth, on a validation split.

A tenth of the training images is held out; the test split is not looked at. Each way leaves one part out.
"""

from benchmarks.experiment import Way, experiment, options
from shards.command import run_command

WAYS = (
    Way("fast"),
    Way("random flip", bake={"flip": "random"}),
    Way("no average of weights", train=("--set", "ema=0")),
    Way("batch norm's scales trained", train=("--set", "train_scales=true")),
    Way("batch norm's biases at the common rate", train=("--set", "bias_lr=1")),
    Way("stem trained, not whitening", train=("--set", "whiten=false")),
)


def main() -> None:
    """Train with everything, and without each part in turn; print."""
    parser = options("python -m benchmarks.fast", __doc__, dataset="cifar10", epochs=3, seeds=3)
    parser.set_defaults(augment="fast", recipe="fast")
    goal = "not above `fast`"
    experiment("fast", WAYS, parser.parse_args(), goal, score="val_accuracy", val_fraction=0.1)


if __name__ == "__main__":
    run_command(main)
