"""The shard format that baking and training agree on. See FORMAT.md."""

from shards.errors import DataError, MachineError, PrebakeError, UsageError
from shards.reader import ShardSet

__all__ = ["DataError", "MachineError", "PrebakeError", "ShardSet", "UsageError"]
