"""The order in which an epoch's records are read, if it is not the order of baking.

Records stay whole, so a sample mostly shares its batch with the same other samples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prebake.format.philox import random_words
from prebake.loader.shard_set import ShardSet

__all__ = ["reading_order", "record_order"]

# Operations of `random_words`, far from those of baking.
SHARDS, RECORDS = 1000, 1001


def reading_order(
    data: ShardSet, split: str, view: int, shuffle_seed: int | None, epoch: int
) -> list[tuple[int, Sequence[int]]]:
    """Return numbers of an epoch's shards and of the records in each, in the turn in which they are read.

    Args:
        data: the shard set.
        split: train, val or test.
        view: the epoch of the shards that is played.
        shuffle_seed: of an order of one's own; None for the baked one.
        epoch: of the training.
    """
    counts = [shard.record_count for shard in data.plan.shards(split, view)]
    if shuffle_seed is None:
        return [(shard, range(count)) for shard, count in enumerate(counts)]
    return [(shard, records.tolist()) for shard, records in record_order(shuffle_seed, epoch, counts)]


def record_order(shuffle_seed: int, epoch: int, shards: Sequence[int]) -> list[tuple[int, NDArray[np.int64]]]:
    """Permute an epoch's shards, and the records in each, so that one shard after the other is read.

    A function of its arguments alone; each record comes exactly once.

    Args:
        shuffle_seed: 0 to 2^63 - 1.
        epoch: of the training; one that replays another's views has an order of its own.
        shards: number of records in each.

    Returns:
        Number of a shard and the numbers of its records in turn, for each shard.
    """
    ends = np.cumsum(shards)
    words = np.split(random_words(shuffle_seed, RECORDS, epoch, sum(shards)), ends[:-1])
    turns = np.argsort(random_words(shuffle_seed, SHARDS, epoch, len(shards)), kind="stable")
    return [(int(shard), np.argsort(words[shard], kind="stable")) for shard in turns]
