"""The room that a training needs in the cache of remote shards."""

from prebake.errors import UsageError
from prebake.format.manifest import Plan
from prebake.storage.cache import Cache

__all__ = ["check_cache", "shards_held"]

STREAM_HOLDS = 3  # the shard that a stream reads, and two ahead of it


def shards_held(plan: Plan) -> int:
    """Return how many shards a training holds at once: its own stream's, and those of a held-out stream beside it."""
    held_out = [len(plan.shards(split)) for split in plan.splits if split != "train"]
    return STREAM_HOLDS + min(STREAM_HOLDS, max(held_out, default=0))


def check_cache(cache: Cache, plan: Plan) -> None:
    """Raise UsageError if the cache is too small for a training on these shards."""
    largest = max(plan.shards(), key=lambda shard: shard.size_bytes)
    held = shards_held(plan)
    needed = held * largest.size_bytes
    if needed > cache.size_bytes:
        raise UsageError(
            f"--cache-size: expected at least {needed} bytes for {held} shards like {largest.tar} of "
            f"{plan.source.name}, found {cache.size_bytes} in {cache.directory}"
        )
