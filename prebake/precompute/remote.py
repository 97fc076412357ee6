"""Bake to a remote directory: the manifest is written first, and an index after its shard."""

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
    """Raise UsageError if no file can be written there."""
    if isinstance(out, Remote) and not out.writable:
        raise UsageError(f"--out: {out}: HTTP is for reading only; name a directory, or a URL of s3:// or gs://")


def claim(plan: Plan, out: Remote, *, overwrite: bool) -> tuple[Plan, list[Shard]]:
    """Write the manifest; return the plan that the directory then has, and its missing shards.

    If there is no manifest yet, the store lets one of several writers create it. Bakes of the same plan write the same
    bytes, so they need no lock.

    Raises:
        DataError: the directory holds, or has meanwhile got, the shards of another plan.
        MachineError: no answer, or access denied.
    """
    plan = reconcile(plan, out, overwrite=overwrite)
    manifest = out / MANIFEST
    if overwrite and not is_begun(plan, out):
        old = sorted(name for name in out.names() if SHARD_FILE.fullmatch(name))
        # The old manifest stays until the end. A tar without its index is ignored, so the indexes go first.
        for suffix in (".json", ".tar"):
            out.remove([name for name in old if name.endswith(suffix)])
        manifest.write(plan.to_bytes())
        return plan, plan.shards()  # all: a bake of the old plan may still have written an index
    if not manifest.write(plan.to_bytes(), create=True):
        plan = reconcile(plan, out, overwrite=False)  # another bake may have written it just now
        if Plan.read(out).to_bytes() != plan.to_bytes():
            manifest.write(plan.to_bytes())  # with more epochs
    existing = out.existing([shard.index for shard in plan.shards()])
    return plan, [shard for shard in plan.shards() if shard.index not in existing]


def check_temp_space(todo: Sequence[Shard], workers: int) -> None:
    """Raise MachineError if TMPDIR has no space for the shards that the workers write at one time."""
    needed = workers * max((shard.size_bytes for shard in todo), default=0)
    root = tempfile.gettempdir()
    free = shutil.disk_usage(root).free
    if needed > free:
        raise MachineError(
            f"{root}: {gigabytes(needed)} are needed for the shards of {workers} workers until they are uploaded, "
            f"{gigabytes(free)} are free; free some space, take fewer --workers, or set TMPDIR"
        )
