"""`python -m prebake`: the same commands as the console script `prebake`."""

from prebake.cli.main import main

if __name__ == "__main__":
    main()
