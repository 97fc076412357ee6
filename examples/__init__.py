"""Training loops of other frameworks, one script each. Run them from the root of the repository."""
