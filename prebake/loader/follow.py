"""Following a bake that still runs: an epoch's indexes are the signal that it may be read."""

import threading

from prebake.console import log
from prebake.errors import DataError, listed
from prebake.loader.shard_set import ShardSet
from prebake.storage.lock import is_locked

__all__ = ["wait_for_epoch"]

POLL_SECONDS = 0.1


def wait_for_epoch(data: ShardSet, split: str, epoch: int, stopped: threading.Event) -> None:
    """Wait until an epoch is whole, for as long as somebody bakes; return early once `stopped` is set.

    Raises:
        UsageError: the set lies elsewhere.
        DataError: something is missing, and nobody bakes it.
    """
    said = False
    while not stopped.is_set():
        # In this order: a bake that ends between the two questions has written its last index before.
        baking = is_locked(data.path)
        missing = data.missing(split, epoch)
        if not missing:
            return
        if not baking:
            raise DataError(
                f"{data.location}: {split} epoch {epoch} is missing ({listed(missing, 3)}) and nobody bakes it. "
                f"{data.plan.remedy(data.location)}"
            )
        if not said:
            said = True
            log(f"{data.name}: waiting for {split} epoch {epoch}, which is being baked")
        stopped.wait(POLL_SECONDS)
