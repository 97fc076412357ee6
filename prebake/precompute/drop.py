"""Drop the last epochs of a set, to free space."""

import re

from prebake.errors import UsageError
from prebake.format.manifest import MANIFEST, Plan
from prebake.loader.shard_set import ShardSet
from prebake.storage.atomic import remove_shards, write_atomic
from prebake.storage.lock import locked

__all__ = ["drop_epochs"]

TRAIN_FILE = re.compile(r"train-e(\d{3,})-\d{3,}\.(json|tar)")


def drop_epochs(data: ShardSet, first: int) -> int:
    """Remove the epochs from `first` on, from the disk and the plan; return the bytes freed.

    The manifest is written last: it may need the space, and the same call can resume after an interruption.

    Raises:
        UsageError: no epoch would remain.
        DataError: another process is baking the set.
    """
    if first < 1:
        raise UsageError("--epochs: at least epoch 0 must remain; to remove all epochs, remove the directory")
    with locked(data.path):
        plan = Plan.read(data.path)  # again: a bake may have changed it before the lock was taken
        found = [(path, TRAIN_FILE.fullmatch(path.name)) for path in data.path.iterdir()]
        freed = remove_shards(path for path, match in found if match and int(match[1]) >= first)
        write_atomic(data.path / MANIFEST, plan.with_epochs(min(first, plan.epochs)).to_bytes())
    return freed
