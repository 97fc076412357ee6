"""Bake on the workers of a Dask cluster: one call per shard. Dask handles workers that die or join.

A worker gets the name and the paths of the source instead of the images, which may be too large to send.
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
from prebake.precompute.augment import Pipeline
from prebake.precompute.augmenters import Augmenter, PipelineAugmenter, augmenter_for
from prebake.precompute.provenance import Provenance, match_provenance
from prebake.precompute.shard_writer import ShardWriter
from prebake.precompute.sources import load
from prebake.precompute.sources.registry import Decoding
from prebake.signals import check_signals
from prebake.storage.files import Location

__all__ = ["SharedSet", "check_scheduler", "imap_cluster", "write_there"]

CONNECT_SECONDS = 20
RETRIES = 2  # of a shard that fails; Dask's settings limit the retries after the death of a worker


@dataclass(frozen=True)
class SharedSet:
    """A shard set that has its manifest, and its source, by paths that are valid on every machine.

    Attributes:
        dataset: the source's name.
        data_dir: where its files are.
        how: options for decoding.
        directory: the set.
        identity: of its plan.
        transform, test_transform: the user's; modules that the workers can import.
        memory: bytes that each worker process may use; None: half of its limit in Dask.
    """

    dataset: str
    data_dir: Path
    how: Decoding
    directory: Location
    identity: str
    memory: int | None
    transform: Pipeline | None = None
    test_transform: Pipeline | None = None


def imap_cluster(address: str, shared: SharedSet, shards: Sequence[Shard]) -> Iterator[Shard]:
    """Yield each shard when a worker of the scheduler at `address` has written it.

    Raises:
        UsageError: not an address.
        MachineError: no scheduler, it went away, or workers died again and again, as those without prebake do.
        PrebakeError, OSError: from a worker.
    """
    with _client(address) as client:
        if not client.scheduler_info()["workers"]:
            log(f"{address}: no workers yet; waiting for them")
        run = secrets.token_hex(4)  # another bake of the same shard needs another key
        by_key = {f"{shared.dataset}-{shard.stem}-{run}": shard for shard in shards}
        work = functools.partial(write_there, shared)
        futures = client.map(work, shards, key=list(by_key), retries=RETRIES, pure=False)
        try:
            for key in _finished(futures, address):
                yield by_key[key]
                check_signals()
        except BaseException:
            if client.status == "running":
                # A worker completes a shard that it has begun.
                client.cancel([future for future in futures if not future.done()])
            raise


def check_scheduler(address: str) -> None:
    """Connect once, to report a wrong address before images are decoded; raises as `imap_cluster`."""
    with _client(address):
        pass


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    distributed = import_optional("distributed", "cluster", "--dask")
    for logger in ("distributed", "distributed.client"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # they print tracebacks when a scheduler goes away
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS)
    except ValueError as error:
        raise UsageError(f"--dask: expected an address such as tcp://HOST:8786, found {address!r} ({error})") from None
    except OSError as error:
        raise MachineError(f"--dask: no scheduler answers at {address} ({error}); start one: dask scheduler") from None
    with client:
        yield client


def _finished(futures: Sequence[Any], address: str) -> Iterator[str]:
    """Yield the key of each future that is done; raise our own errors instead of Dask's."""
    from distributed import KilledWorker, as_completed

    resume = "The same command resumes the bake"
    try:
        for future in as_completed(futures):
            if future.status in ("error", "cancelled"):
                future.result()
            # Other results are not fetched: they are None, and the worker that holds one may be dead.
            key = future.key
            future.release()  # otherwise Dask computes it again when its worker dies
            yield key
    except CancelledError:
        raise MachineError(f"{address}: the scheduler went away, or cancelled this bake. {resume}") from None
    except RuntimeError as error:
        if "deserialization" not in str(error):
            raise
        raise MachineError(
            f"{address}: the scheduler could not read the request ({str(error)[:200]}); install this release "
            f"of prebake on the scheduler and the workers. {resume}"
        ) from None
    except KilledWorker as error:
        raise MachineError(
            f"{address}: {error.allowed_failures + 1} workers died over {error.task}, the last at "
            f"{error.last_worker.address}; see their logs (no memory: fewer threads each; no module: install this "
            f"release there). {resume}"
        ) from None


_preparing = threading.Lock()
_transforming = threading.Lock()  # a process has one global generator each of Python, NumPy and torch


def write_there(shared: SharedSet, shard: Shard) -> None:
    """Write one shard in this process, unless it exists. Source and prepared images are kept for the next call.

    Raises:
        PrebakeError: this machine does not see the set or the source, or sees others.
        OSError: no space, no permission.
    """
    try:
        with _preparing:
            augmenter = _augmenter(shared, shard)
        with _transforming if isinstance(augmenter, PipelineAugmenter) else contextlib.nullcontext():
            ShardWriter(shared.directory, shared.identity).write(augmenter, shard, threading.Event())
    except PrebakeError as error:
        raise type(error)(f"worker on {platform.node()!r}: {error}") from None
    except OSError as error:
        words = f"{error.strerror or error}, on the worker {platform.node()!r}"
        raise OSError(error.errno, words, error.filename) from None


_augmenters: dict[tuple[SharedSet, str, tuple[int, int, int]], Augmenter] = {}


def _augmenter(shared: SharedSet, shard: Shard) -> Augmenter:
    """Return the augmenter of the last call, or free its memory and make another one."""
    key = shared, shard.split, shard.image_shape
    if key not in _augmenters:
        _augmenters.clear()
        plan, provenance = _provenance(shared)
        _augmenters[key] = augmenter_for(
            provenance.source, provenance.augmentation, plan, shard, memory=_memory(shared)
        )
    return _augmenters[key]


def _memory(shared: SharedSet) -> int | None:
    """Return the bytes that this process may use: those asked for, half of its limit in Dask, or None."""
    distributed = sys.modules.get("distributed")  # every worker has loaded it
    if shared.memory is not None or distributed is None:
        return shared.memory
    try:
        limit: int | None = distributed.get_worker().memory_manager.memory_limit
    except ValueError:  # not called on a worker
        return None
    return limit // 2 if limit else None


@functools.lru_cache(maxsize=1)
def _provenance(shared: SharedSet) -> tuple[Plan, Provenance]:
    """Read the plan of the set and load its source, once per process, and check both."""
    try:
        plan = Plan.read(shared.directory)
        if plan.identity != shared.identity:
            raise DataError(f"{shared.directory}: of another plan ({shared.identity} expected)")
        source = load(shared.dataset, shared.data_dir, shared.how)
        return plan, match_provenance(shared.directory, plan, source, shared.transform, shared.test_transform)
    except DataError as error:
        raise DataError(f"{error}. Workers must see --out and --data-dir under the same paths") from None
