"""A Dask cluster as the pool of a bake: one call for each shard. Workers that die or join are Dask's business.

A worker gets the name and the paths of the source rather than its images. It must see the directory of shards anyway;
and one that joins late, or takes a dead one's place, needs nobody who sends it what may be more than is fit to be sent.
"""

import contextlib
import functools
import logging
import platform
import secrets
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prebake.console import log
from prebake.errors import DataError, MachineError, PrebakeError, UsageError
from prebake.format.manifest import Plan, Shard
from prebake.optional import import_optional
from prebake.precompute.augmenters import LookupAugmenter, PipelineAugmenter, augmenter_for
from prebake.precompute.progress import Progress
from prebake.precompute.provenance import Provenance, match_provenance
from prebake.precompute.shard_writer import ShardWriter
from prebake.precompute.sources.decode import Decoding
from prebake.precompute.sources.known import load
from prebake.signals import check_signals
from prebake.storage.files import Location

__all__ = ["SharedSet", "bake_on_cluster", "bake_there", "check_scheduler"]

CONNECT_SECONDS = 20
RETRIES = 2  # of a shard that fails; what a dead worker had is given to others as often as Dask is set to


@dataclass(frozen=True)
class SharedSet:
    """A shard set whose manifest stands there, and its source, by paths that mean the same on every machine.

    Attributes:
        dataset: the source's name.
        data_dir: where its files are.
        how: pictures are decoded.
        directory: the set.
        identity: of its plan.
        memory: bytes that each worker process may hold; None: half of what Dask grants it.
    """

    dataset: str
    data_dir: Path
    how: Decoding
    directory: Location
    identity: str
    memory: int | None


def bake_on_cluster(address: str, shared: SharedSet, todo: Sequence[Shard], progress: Progress) -> None:
    """Let the workers of the scheduler at `address` write shards.

    Raises:
        UsageError: no address.
        MachineError: no scheduler, it went away, or workers died again and again, as those without our package do.
        PrebakeError, OSError: what a worker found.
    """
    with _client(address) as client:
        if not client.scheduler_info()["workers"]:
            log(f"{address}: no workers yet; waiting for them")
        run = secrets.token_hex(4)  # to the scheduler, the same shard in another bake is another matter
        shards = {f"{shared.dataset}-{shard.stem}-{run}": shard for shard in todo}
        work = functools.partial(bake_there, shared)
        futures = client.map(work, todo, key=list(shards), retries=RETRIES, pure=False)
        try:
            _gather(futures, shards, progress, address)
        except BaseException:
            if client.status == "running":
                client.cancel(
                    [future for future in futures if not future.done()]
                )  # what a worker has begun, it finishes: a whole shard, or nothing
            raise


def check_scheduler(address: str) -> None:
    """Connect once, so that a wrong address is said before pictures are decoded; raises as `bake_on_cluster`."""
    with _client(address):
        pass


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    distributed = import_optional("distributed", "cluster", "--dask")
    for logger in ("distributed", "distributed.client"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # their tracebacks on a scheduler that went away
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS)
    except ValueError as error:
        raise UsageError(f"--dask: expected an address such as tcp://HOST:8786, found {address!r} ({error})") from None
    except OSError as error:
        raise MachineError(f"--dask: no scheduler answers at {address} ({error}); start one: dask scheduler") from None
    with client:
        yield client


def _gather(futures: Sequence[Any], shards: dict[str, Shard], progress: Progress, address: str) -> None:
    """Wait for all shards; raise our own error for one of Dask's."""
    from distributed import KilledWorker, as_completed

    go_on = "The same command goes on where this one ended"
    try:
        for future in as_completed(futures):
            if future.status in ("error", "cancelled"):
                future.result()
            # The result of the others is not asked for: it is nothing, and who held it may be dead.
            progress.add(shards[future.key].samples)
            progress.finish(shards[future.key])
            future.release()  # else it is computed again where its worker dies
            check_signals()
    except CancelledError:
        raise MachineError(f"{address}: the scheduler went away, or threw this bake out. {go_on}") from None
    except RuntimeError as error:
        if "deserialization" not in str(error):
            raise
        raise MachineError(
            f"{address}: the scheduler could not read what it was asked ({str(error)[:200]}); this release "
            f"must be installed there, too, as on the workers. {go_on}"
        ) from None
    except KilledWorker as error:
        raise MachineError(
            f"{address}: {error.allowed_failures + 1} workers died over {error.task}, the last at "
            f"{error.last_worker.address}; their logs tell why (no memory: fewer threads each; no module: install this "
            f"release there). {go_on}"
        ) from None


_preparing = threading.Lock()
_transforming = threading.Lock()  # torch's generator, from which a transform draws, is one for all threads


def bake_there(shared: SharedSet, shard: Shard) -> None:
    """Write one shard, in whichever process this is called; one that is there is left alone.

    Source and prepared images are kept for the next call.

    Raises:
        PrebakeError: set or source are not seen here, or are not those that are meant; elsewhere, as `Store.ask`.
        OSError: no space, no permission.
    """
    try:
        with _preparing:
            augmenter = _augmenter(shared, shard)
        with _transforming if isinstance(augmenter, PipelineAugmenter) else contextlib.nullcontext():
            ShardWriter(shared.directory, shared.identity).bake(augmenter, shard, lambda _: None)
    except PrebakeError as error:
        raise type(error)(f"worker on {platform.node()!r}: {error}") from None
    except OSError as error:
        words = f"{error.strerror or error}, on the worker {platform.node()!r}"
        raise OSError(error.errno, words, error.filename) from None


_augmenters: dict[tuple[SharedSet, str, tuple[int, int, int]], LookupAugmenter | PipelineAugmenter] = {}


def _augmenter(shared: SharedSet, shard: Shard) -> LookupAugmenter | PipelineAugmenter:
    """Return the baker of the last call, or another one in its place, whose memory is free by then."""
    key = shared, shard.split, shard.image_shape
    if key not in _augmenters:
        _augmenters.clear()
        plan, provenance = _provenance(shared)
        _augmenters[key] = augmenter_for(
            provenance.source, provenance.augmentation, plan, shard, memory=_memory(shared)
        )
    return _augmenters[key]


def _memory(shared: SharedSet) -> int | None:
    """Return what this process may hold: what was said, or half of what Dask grants it (`--memory-limit`), or None."""
    distributed = sys.modules.get("distributed")  # which a worker has loaded
    if shared.memory is not None or distributed is None:
        return shared.memory
    try:
        limit: int | None = distributed.get_worker().memory_manager.memory_limit
    except ValueError:  # called by whoever is no worker
        return None
    return limit // 2 if limit else None


@functools.lru_cache(maxsize=1)
def _provenance(shared: SharedSet) -> tuple[Plan, Provenance]:
    """Read the set's plan and load its source, once in a process; both must be those that are meant."""
    try:
        plan = Plan.read(shared.directory)
        if plan.identity != shared.identity:
            raise DataError(f"{shared.directory}: of another plan ({shared.identity} expected)")
        return plan, match_provenance(shared.directory, plan, load(shared.dataset, shared.data_dir, shared.how))
    except DataError as error:
        raise DataError(f"{error}. Workers must see --out and --data-dir under the same paths") from None
