"""A store in memory, as `shaky://`, that takes down what is asked of it and can be made to fail."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

__all__ = ["Shaky", "Trouble", "filled"]

Trouble = Callable[[str, str], "Exception | None"]


def _none(_method: str, _name: str) -> Exception | None:
    return None


class Shaky(MemoryFileSystem):  # type: ignore[misc] # fsspec ships no types
    """One for the whole process; `clear` begins anew.

    Attributes:
        asked: method and name of the file, of each call.
        trouble: is given both, and returns what is to be raised.
        spoil: changes the bytes that a read gives.
    """

    protocol = "shaky"
    store: dict[str, Any] = {}  # noqa: RUF012 - as fsspec's own
    pseudo_dirs = [""]  # noqa: RUF012 - likewise
    asked: list[tuple[str, str]] = []  # noqa: RUF012 - of all instances
    trouble: Trouble = staticmethod(_none)
    spoil: Callable[[bytes], bytes] = staticmethod(bytes)

    @classmethod
    def clear(cls) -> None:
        """Forget everything."""
        cls.store.clear()
        cls.asked.clear()
        cls.trouble, cls.spoil = staticmethod(_none), staticmethod(bytes)

    def _ask(self, method: str, path: str) -> None:
        name = path.rpartition("/")[2]
        self.asked.append((method, name))
        error = type(self).trouble(method, name)
        if error is not None:
            raise error

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        self._ask("read", path)
        return type(self).spoil(super().cat_file(path, start, end, **options))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> Any:
        self._ask("claim" if mode == "create" else "write", path)
        return super().pipe_file(path, value, mode=mode, **options)

    def put_file(self, lpath: str, rpath: str) -> Any:
        self._ask("write", rpath)
        return super().pipe_file(rpath, Path(lpath).read_bytes())

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self._ask("list", path)
        return super().ls(path, detail, **options)

    def rm_file(self, path: str) -> None:
        self._ask("remove", path)
        super().rm_file(path)

    def names(self, directory: str) -> dict[str, bytes]:
        """Return the files of a directory, by name."""
        return {
            p.rpartition("/")[2]: bytes(f.getbuffer()) for p, f in self.store.items() if p.startswith(f"/{directory}/")
        }


fsspec.register_implementation("shaky", Shaky)


def filled(directory: Path) -> str:
    """Copy a shard set into the store; return its URL."""
    Shaky.clear()
    files = fsspec.filesystem("shaky")
    for path in sorted(directory.glob("*[rn]")):  # but for the lock
        MemoryFileSystem.pipe_file(files, f"/bucket/set/{path.name}", path.read_bytes())
    return "shaky://bucket/set"
