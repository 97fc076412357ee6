"""python -m benchmarks.plans: does it help to deal the augmentations evenly, instead of drawing each anew?"""

from benchmarks.experiment import Way, experiment, options
from prebake.cli.run import run_command

WAYS = (Way("independent"), Way("stratified", bake={"plan": "stratified"}))


def main() -> None:
    """Train on both plans, seed after seed; print."""
    parser = options("python -m benchmarks.plans", __doc__, dataset="digits", epochs=25, seeds=20)
    parser.set_defaults(recipe="digits")
    experiment("plans", WAYS, parser.parse_args(), "to be known")


if __name__ == "__main__":
    run_command(main)
