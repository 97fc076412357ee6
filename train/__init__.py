"""Training: shards -> stream -> steps -> model, report."""
