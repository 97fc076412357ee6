"""Users of other loops: one script each, run from the repository's root."""
