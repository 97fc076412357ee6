"""Two small shard sets whose bytes pin the format."""
