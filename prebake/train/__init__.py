"""Stage 2: shards -> model."""
