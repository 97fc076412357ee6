"""python -m train: train every data set found in the shards."""

from shards.command import run_command


def main() -> None:
    """Run the command; torch, which takes seconds to import, is imported when signals are heeded already."""
    from train.command import main as command

    command()


if __name__ == "__main__":
    run_command(main, "--resume auto goes on with a run that had begun")
