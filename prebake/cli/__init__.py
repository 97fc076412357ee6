"""The commands: options, exit codes, signals, messages."""
