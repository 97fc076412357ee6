"""python -m benchmarks.fast: what each part of the recipe `fast` is worth, on a validation split.

A tenth of the training images is held out; the test split is not looked at. Each way leaves one part of all candidates
out. What does not help is none of the recipe's.
"""

from benchmarks.experiment import Way, experiment, options
from prebake.cli.run import run_command

AVERAGE = ("--set", "ema=0.95")
WAYS = (
    Way("all candidates", train=AVERAGE),
    Way("random flip", bake={"flip": "random"}, train=AVERAGE),
    Way("no average of weights"),
    Way("batch norm's scales trained", train=(*AVERAGE, "train_scales=true")),
    Way("batch norm's biases at the common rate", train=(*AVERAGE, "bias_lr=1")),
    Way("stem trained, not whitening", train=(*AVERAGE, "whiten=false")),
)


def main() -> None:
    """Train with everything, and without each part in turn; print."""
    parser = options("python -m benchmarks.fast", __doc__, dataset="cifar10", epochs=3, seeds=3)
    parser.set_defaults(augment="fast", recipe="fast")
    goal = "less than all candidates"
    experiment("fast", WAYS, parser.parse_args(), goal, score="val_accuracy", val_fraction=0.1)


if __name__ == "__main__":
    run_command(main)
