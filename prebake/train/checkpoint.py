"""Checkpoints: a run's state between two steps. The last two are kept."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prebake.console import log
from prebake.errors import DataError
from prebake.train.state import Saved
from prebake.train.tensors import read_tensors, write_tensors

__all__ = ["Checkpoints"]

KEPT = 2
NAME = re.compile(r"step-(\d{8,})\.safetensors")
PARTIAL = re.compile(NAME.pattern + r"\.part")


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: of the checkpoints; created with the first one.
        settings: of the run, plain JSON values; checkpoints of other runs are refused.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        self.directory, self._settings = directory, settings

    def save(self, step: int, saved: Saved) -> None:
        """Write a checkpoint, whole or not at all, and remove all but this one and the one before.

        Args:
            step: number of steps that the run has taken.
            saved: its state.

        Raises:
            OSError: no space, no permission.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"step-{step:08d}.safetensors"
        write_tensors(path, saved.tensors, {"settings": self._settings, "values": saved.values})
        # A later checkpoint is damaged: the run resumed from an earlier one.
        kept = [found for found in self._by_step() if _step(found) <= step][-KEPT:]
        for found in self.directory.iterdir():
            if found not in kept and (NAME.fullmatch(found.name) or PARTIAL.fullmatch(found.name)):
                found.unlink()

    def load(self) -> Saved | None:
        """Read the newest intact checkpoint, and log which ones are damaged. Return None if there are none.

        Raises:
            DataError: all of them are damaged.
        """
        damaged = []
        for path in reversed(self._by_step()):
            try:
                saved = self._read(path)
            except DataError as error:
                damaged.append(str(error))
                continue
            for reason in damaged:
                log(f"{reason}; resuming from {path.name}")
            return saved
        if damaged:
            raise DataError(
                f"no usable checkpoint ({'; '.join(damaged)}); --overwrite (overwrite=True) starts the run anew"
            )
        return None

    def _by_step(self) -> list[Path]:
        if not self.directory.is_dir():
            return []
        return sorted((path for path in self.directory.iterdir() if NAME.fullmatch(path.name)), key=_step)

    def _read(self, path: Path) -> Saved:
        tensors, about = read_tensors(path)
        if about.fields("settings").content != self._settings:
            raise DataError(f"{path}: of another run")
        return Saved(tensors, about.fields("values").content)


def _step(path: Path) -> int:
    return int(path.name[5:].split(".")[0])
