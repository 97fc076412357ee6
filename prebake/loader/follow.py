"""Wait for an epoch that a running bake still writes. An epoch can be read when all its indexes exist."""

import threading

from prebake.console import log
from prebake.errors import DataError, listed
from prebake.loader.shard_set import ShardSet
from prebake.storage.lock import is_locked

__all__ = ["wait_for_epoch"]

POLL_SECONDS = 0.1


def wait_for_epoch(data: ShardSet, split: str, epoch: int, stopped: threading.Event) -> None:
    """Wait until an epoch is complete, as long as a bake is running. Return early when `stopped` is set.

    Raises:
        UsageError: the set is remote.
        DataError: shards are missing, and no bake is running.
    """
    logged = False
    while not stopped.is_set():
        # Check the lock first: a bake that ends between the two checks has written all its indexes by then.
        baking = is_locked(data.path)
        missing = data.missing(split, epoch)
        if not missing:
            return
        if not baking:
            raise DataError(
                f"{data.location}: {split} epoch {epoch} is missing ({listed(missing, 3)}) and nobody bakes it. "
                f"{data.plan.remedy(data.location)}"
            )
        if not logged:
            logged = True
            log(f"{data.name}: waiting for {split} epoch {epoch}, which is being baked")
        stopped.wait(POLL_SECONDS)
