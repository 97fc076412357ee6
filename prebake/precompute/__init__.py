"""Stage 1: images -> views -> shards."""
