"""The order in which the records of an epoch are read: as baked, or shuffled by a seed.

Shuffling keeps each record whole. So most samples of a batch are the same neighbours in every epoch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prebake.format.philox import random_words
from prebake.loader.shard_set import ShardSet

__all__ = ["reading_order", "record_order"]

# Operation numbers for `random_words`. They differ from all that baking uses.
SHARDS, RECORDS = 1000, 1001


def reading_order(
    data: ShardSet, split: str, view: int, shuffle_seed: int | None, epoch: int
) -> list[tuple[int, Sequence[int]]]:
    """Return the shards of an epoch and the records in each, as numbers, in reading order.

    Args:
        data: the shard set.
        split: train, val or test.
        view: epoch of the shards to read.
        shuffle_seed: seed of the permutation; None for the baked order.
        epoch: epoch of the training.
    """
    counts = [shard.record_count for shard in data.plan.shards(split, view)]
    if shuffle_seed is None:
        return [(shard, range(count)) for shard, count in enumerate(counts)]
    return [(shard, records.tolist()) for shard, records in record_order(shuffle_seed, epoch, counts)]


def record_order(shuffle_seed: int, epoch: int, shards: Sequence[int]) -> list[tuple[int, NDArray[np.int64]]]:
    """Permute the shards of an epoch, and the records within each shard.

    The result depends only on the arguments, and holds each record exactly once.

    Args:
        shuffle_seed: 0 to 2^63 - 1.
        epoch: epoch of the training. Epochs that replay the same views have different orders.
        shards: number of records in each shard.

    Returns:
        (number of the shard, numbers of its records in reading order) for each shard, in reading order.
    """
    ends = np.cumsum(shards)
    words = np.split(random_words(shuffle_seed, RECORDS, epoch, sum(shards)), ends[:-1])
    shard_order = np.argsort(random_words(shuffle_seed, SHARDS, epoch, len(shards)), kind="stable")
    return [(int(shard), np.argsort(words[shard], kind="stable")) for shard in shard_order]
