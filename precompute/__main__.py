"""`python -m precompute` in a clone: the same as `prebake precompute`. The code is in prebake/precompute/."""

import sys

from prebake.cli.main import run

if __name__ == "__main__":
    run("precompute", sys.argv[1:])
