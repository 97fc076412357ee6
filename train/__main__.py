"""`python -m train` in a clone: the same as `prebake train`. The code is in prebake/train/."""

import sys

from prebake.cli.main import run

if __name__ == "__main__":
    run("train", sys.argv[1:])
