"""Find the shard sets that `--shards` names."""

import time
from collections.abc import Sequence
from pathlib import Path

from prebake.errors import DataError
from prebake.format.manifest import MANIFEST
from prebake.loader.shard_set import ShardSet
from prebake.storage.cache import Cache
from prebake.storage.files import Location
from prebake.storage.remote import Remote

__all__ = ["find", "wait_for_manifest"]

MANIFEST_SECONDS = 20.0


def find(root: Location, names: Sequence[str] | None, cache: Cache | None = None) -> list[ShardSet]:
    """Open the shard set at `root`, or those in it; remote ones are read through the cache, by default the user's.

    Raises:
        DataError: no shard set there, or none of a name.
        MachineError: a URL does not answer, or denies access.
    """
    bake_first = f"Bake first: prebake precompute --epochs 25 --out {root}"
    if isinstance(root, Remote):
        sets = [ShardSet(place, cache) for place in _remote(root, names)]
    elif not root.is_dir():
        raise DataError(f"--shards: no directory named {root}. {bake_first}")
    else:
        one = (root / MANIFEST).is_file()
        sets = [ShardSet(root)] if one else [ShardSet(path.parent) for path in sorted(root.glob(f"*/{MANIFEST}"))]
    if not sets:
        raise DataError(f"--shards: {root} holds no shard set. {bake_first}")
    there = {data.name: data for data in sets}
    if len(there) < len(sets):
        raise DataError(f"--shards: several sets in {root} have the same name; give the directory of one of them")
    unknown = [name for name in names or [] if name not in there]
    if unknown:
        raise DataError(f"--dataset: {root} holds no shards of {', '.join(unknown)}; there are {', '.join(there)}")
    return [there[name] for name in dict.fromkeys(names)] if names else sets


def wait_for_manifest(root: Path, names: Sequence[str] | None) -> None:
    """Wait for a bake that was started together with this command to write its manifest."""
    wanted = [f"{name}/{MANIFEST}" for name in names or []] or [f"*/{MANIFEST}"]
    deadline = time.monotonic() + MANIFEST_SECONDS
    while time.monotonic() < deadline:
        if (root / MANIFEST).is_file() or all(any(root.glob(pattern)) for pattern in wanted):
            return
        time.sleep(0.1)


def _remote(root: Remote, names: Sequence[str] | None) -> list[Remote]:
    """Return the shard set at `root`, or those in it; over HTTP, which lists nothing, those of the given names."""
    if (root / MANIFEST).exists():
        return [root]
    if not names and not root.writable:
        raise DataError(
            f"--shards: {root} holds no {MANIFEST}, and over HTTP nothing can be listed; name the URL of one set, "
            "or those in it by --dataset"
        )
    inside = [root / name for name in (names or sorted(root.names()))]
    return [place for place in inside if (place / MANIFEST).exists()]
