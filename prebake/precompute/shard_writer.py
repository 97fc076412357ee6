"""Write the shards of one plan. Threads, processes, tasks and Dask's workers all call `ShardWriter.write`."""

import contextlib
import secrets
import threading
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path

from prebake.errors import DataError
from prebake.format.document import MAX_BYTES
from prebake.format.index import Index
from prebake.format.manifest import MANIFEST, Shard
from prebake.format.writer import create_shard
from prebake.precompute.augmenters import Augmenter
from prebake.storage.files import Location, existing, read_bytes
from prebake.storage.remote import Remote
from prebake.storage.temp_dir import temp_dir

__all__ = ["ShardWriter"]


@dataclass(frozen=True)
class ShardWriter:
    """Writes shards of one plan into a directory that holds the manifest.

    The name and the content of a shard depend on source and plan alone. So two writers may write the same shard, even
    at once and on two machines: each uses temporary names of its own, and all give the same bytes the same name. The
    file system only needs an atomic rename.

    Attributes:
        directory: the shard set.
        identity: of the plan.
        token: a part of all temporary names.
    """

    directory: Location
    identity: str
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def has(self, shard: Shard) -> bool:
        """Whether a shard exists. No lock protects a remote set: there its index must name this plan."""
        if isinstance(self.directory, Path):
            return bool(existing(self.directory, [shard.index]))
        try:
            Index.read(self.directory, shard, self.identity)
        except DataError:
            return False
        return True

    def write(self, augmenter: Augmenter, shard: Shard, stopped: threading.Event) -> Shard:
        """Write one shard, unless it exists; return it.

        Args:
            augmenter: of the shard's split and image size.
            shard: the planned shard.
            stopped: ends the work between two records.

        Raises:
            CancelledError: `stopped` is set.
            DataError: the manifest is now another plan's.
            MachineError: the object store does not answer, or denies access.
            OSError: no space, no permission.
        """
        self._check_plan()
        if self.has(shard):
            return shard
        try:
            with contextlib.nullcontext(self.directory) if isinstance(self.directory, Path) else temp_dir() as here:
                with create_shard(here, shard, self.identity, self.token) as archive:
                    for frame in augmenter.records(shard):
                        if stopped.is_set():
                            raise CancelledError
                        archive.write(frame)
                if isinstance(self.directory, Remote):
                    for name in (shard.tar, shard.index):
                        self._check_plan()
                        (self.directory / name).upload(here / name)
        except FileNotFoundError:
            # Without a lock, another machine that finds the set complete may remove the temporary files of the others.
            if not self.has(shard):
                raise
        return shard

    def _check_plan(self) -> None:
        """Raise DataError if the manifest is now another plan's; a lock may not reach all machines."""
        manifest = self.directory / MANIFEST
        # In canonical JSON the field has this form only, and no text can contain it.
        if f'"identity":"{self.identity}"'.encode() not in read_bytes(manifest, MAX_BYTES):
            raise DataError(
                f"{manifest}: of another plan now ({self.identity} expected): somebody else bakes other shards here. "
                "End one of the two, or name another --out"
            )
