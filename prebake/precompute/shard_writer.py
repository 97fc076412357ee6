"""The oven: bakes one shard at a time. Threads, processes, tasks and Dask's workers all come down to it."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from prebake.errors import DataError
from prebake.format.document import MAX_BYTES
from prebake.format.index import Index
from prebake.format.manifest import MANIFEST, Shard
from prebake.format.record import Frame
from prebake.format.writer import write_shard
from prebake.precompute.augmenters import LookupAugmenter, PipelineAugmenter
from prebake.storage.files import Location, present, read_bytes

__all__ = ["ShardWriter"]


@dataclass(frozen=True)
class ShardWriter:
    """Writes shards of one plan into a directory, whose manifest stands there.

    What a shard is called and what it holds follow from source and plan alone. So it may be baked twice, also at
    once and on two machines: each writes under a temporary name of its own, and all of them give the same bytes the
    same name. Nothing is asked of the file system but that it renames a file within a directory at one stroke.

    Attributes:
        directory: the shard set.
        identity: of the plan.
        token: a part of all its temporary names.
    """

    directory: Location
    identity: str
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def has(self, shard: Shard) -> bool:
        """Say whether a shard is there; elsewhere, where no lock keeps others out, whether it is one of this plan."""
        if isinstance(self.directory, Path):
            return bool(present(self.directory, [shard.index]))
        try:
            Index.read(self.directory, shard, self.identity)
        except DataError:
            return False
        return True

    def bake(self, augmenter: LookupAugmenter | PipelineAugmenter, shard: Shard, count: Callable[[int], None]) -> None:
        """Write one shard; one that is there is left alone.

        Args:
            baker: of the shard's split and image size.
            shard: which one.
            count: called with samples done.

        Raises:
            DataError: another plan's manifest stands there now.
            OSError: no space, no permission.
        """
        self._check()
        if self.has(shard):
            count(shard.samples)
            return
        fill = augmenter.filler(shard)

        def step(first: int, frame: Frame) -> None:
            fill(first, frame)
            count(frame.layout.samples)

        try:
            write_shard(self.directory, shard, self.identity, step, self.token, self._check)
        except FileNotFoundError:
            # Where a lock does not reach all machines, whoever finds the set whole may tidy up what others still write.
            if not self.has(shard):
                raise

    def _check(self) -> None:
        """A lock may not reach all machines: what another plan has taken over is left to it, at the latest here."""
        manifest = self.directory / MANIFEST
        # Canonical JSON: the field looks so and in no other way, and no text in it can.
        if f'"identity":"{self.identity}"'.encode() not in read_bytes(manifest, MAX_BYTES):
            raise DataError(
                f"{manifest}: of another plan now ({self.identity} expected): somebody else bakes other shards here. "
                "End one of the two, or name another --out"
            )
