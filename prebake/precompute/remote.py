"""Baking to what lies elsewhere: the manifest is the claim, and an index says that its shard is there."""

import shutil
import tempfile
from collections.abc import Sequence

from prebake.errors import MachineError, UsageError
from prebake.format.manifest import MANIFEST, Plan, Shard
from prebake.precompute.progress import gigabytes
from prebake.precompute.resume import SHARD_FILE, is_begun, reconcile
from prebake.storage.files import Location
from prebake.storage.remote import Remote

__all__ = ["check_temp_space", "check_writable", "claim"]


def check_writable(out: Location) -> None:
    """Raise UsageError where nothing can be written to such a URL, or nothing stays."""
    if isinstance(out, Remote) and not out.writable:
        raise UsageError(f"--out: {out}: over HTTP shards are read, not written; take a directory, s3:// or gs://")
    if str(out).startswith("memory://"):
        raise UsageError(f"--out: {out}: is gone when the command ends; take a directory, s3:// or gs://")


def claim(plan: Plan, out: Remote, *, overwrite: bool) -> tuple[Plan, list[Shard]]:
    """Write the manifest before all else; return the plan that then stands there, and the shards that are missing.

    Where there is none yet, the store lets only one of several writers put one. Two who bake the same plan write the
    same bytes, so they need no other lock.

    Raises:
        DataError: another plan's shards stand there, or have come there meanwhile.
        MachineError: no answer, or access denied.
    """
    plan = reconcile(plan, out, overwrite=overwrite)
    manifest = out / MANIFEST
    if overwrite and not is_begun(plan, out):
        old = sorted(name for name in out.names() if SHARD_FILE.fullmatch(name))
        # Their manifest stays meanwhile; without its index an archive counts for nothing.
        for ending in (".json", ".tar"):
            out.remove([name for name in old if name.endswith(ending)])
        manifest.write(plan.to_bytes())
        return plan, plan.shards()  # an index that a writer of the old ones has still brought is not trusted
    if not manifest.write(plan.to_bytes(), create=True):
        plan = reconcile(plan, out, overwrite=False)  # somebody was there before, perhaps just now
        if Plan.read(out).to_bytes() != plan.to_bytes():
            manifest.write(plan.to_bytes())  # of more epochs than there were
    there = out.existing([shard.index for shard in plan.shards()])
    return plan, [shard for shard in plan.shards() if shard.index not in there]


def check_temp_space(todo: Sequence[Shard], workers: int) -> None:
    """Raise MachineError where the shards that are written at one time don't fit among the temporary files."""
    needed = workers * max((shard.size_bytes for shard in todo), default=0)
    root = tempfile.gettempdir()
    free = shutil.disk_usage(root).free
    if needed > free:
        raise MachineError(
            f"{root}: {gigabytes(needed)} are needed for the shards of {workers} workers until they are uploaded, "
            f"{gigabytes(free)} are free; free some space, take fewer --workers, or set TMPDIR"
        )
