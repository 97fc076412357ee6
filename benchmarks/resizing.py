"""python -m benchmarks.resizing: seconds and accuracy of progressive resizing against one size.

Of CIFAR-10's 32 pixels a fifth of the epochs has 16, then two fifths 24, two fifths 32; other data in proportion.
"""

from benchmarks.experiment import Way, experiment, options
from prebake.cli.run import run_command
from prebake.errors import UsageError
from prebake.precompute.sources import load


def main() -> None:
    """Train with one size and with three, seed after seed; print."""
    parser = options("python -m benchmarks.resizing", __doc__, dataset="cifar10", epochs=10, seeds=3)
    arguments = parser.parse_args()
    if arguments.epochs < 5:
        raise UsageError(f"--epochs: expected at least 5, of which each size gets some, found {arguments.epochs}")
    side = load(arguments.dataset, arguments.data_dir).splits["test"].images_NHWC.shape[1]
    fifth = arguments.epochs // 5
    sizes = f"{side // 2}:{fifth},{side * 3 // 4}:{2 * fifth},{side}"  # the last one's epochs are all that are left
    ways = (Way(f"{side} pixels"), Way(f"{sizes} pixels", bake={"resize": sizes}))
    experiment("resizing", ways, arguments, "fewer seconds, no less accuracy", timed=True)


if __name__ == "__main__":
    run_command(main)
