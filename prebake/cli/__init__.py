"""The commands of `prebake`: one module per command, and exit codes, signals and messages for all of them."""
