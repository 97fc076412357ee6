"""Crashes: what is done to a shard set, and what must hold of it wherever that was cut off."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prebake.format.manifest import Plan
from prebake.format.verify import damage
from prebake.loader.shard_set import ShardSet
from prebake.precompute.drop import drop_epochs
from tests.helpers.faults import Operations
from tests.helpers.small import bake, bake_share, files, flip_byte, stamps
from tests.helpers.trials import trial

__all__ = ["SCENES", "Stage"]

SMALL = {"val_fraction": 0, "workers": 1}
HARMED = "train-e001-000.tar"


@dataclass(frozen=True)
class Scene:
    """Something done to a shard set: how the set is made that it finds, and the act, which a re-run does again."""

    prepare: Callable[[Path], object]
    act: Callable[[Path], object]


def _damaged(directory: Path) -> None:
    bake(directory, **SMALL)
    flip_byte(directory / HARMED, 3000)


def _drop(directory: Path) -> None:
    # As the command does: what is dropped already is an error of usage.
    data = ShardSet(directory)
    if data.epochs > 1:
        drop_epochs(data, 1)


def _tasks(directory: Path) -> None:
    for number in range(2):
        bake_share(directory, f"{number}/2", **SMALL)


SCENES = {
    "bake": Scene(lambda _: None, lambda directory: bake(directory, **SMALL)),
    "add": Scene(
        lambda directory: bake(directory, **SMALL, epochs=2),
        lambda directory: bake(directory, **SMALL),
    ),
    "overwrite": Scene(
        lambda directory: bake(directory, dtype="uint8", epochs=2),
        lambda directory: bake(directory, **SMALL, overwrite=True),
    ),
    "repair": Scene(_damaged, lambda directory: bake(directory, **SMALL)),
    "drop": Scene(lambda directory: bake(directory, **SMALL), _drop),
    "tasks": Scene(lambda _: None, _tasks),
}


class Stage:
    """A scene, to be played again and again.

    Attributes:
        act: what is done, to be called with a directory from `fresh`.
        operations: how many the undisturbed act has.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.act = SCENES[name].act
        self._root, self._numbers, self._replaces = root, 0, name == "overwrite"
        SCENES[name].prepare(root / "before")
        self._before = files(root / "before") if (root / "before").is_dir() else {}
        whole = self.fresh()
        ended = trial(lambda: self._count(whole))
        assert ended.status == 0, ended.said
        self.operations = len((root / "operations").read_text().split())
        self._after = files(whole)

    def _count(self, directory: Path) -> None:
        operations = Operations(directory)
        self.act(directory)
        seen = list(operations.seen)
        assert not operations.missed, operations.missed
        (self._root / "operations").write_text(" ".join(seen))

    def fresh(self) -> Path:
        """Return a directory as the act finds it."""
        self._numbers += 1
        directory = self._root / str(self._numbers)
        if (self._root / "before").is_dir():
            shutil.copytree(self._root / "before", directory)
        return directory

    def check(self, directory: Path) -> None:
        """Hold what is there against what may be, whatever happened; then act again, and hold it against what must."""
        if directory.is_dir():
            self._check_cut_off(directory)
        found = files(directory) if directory.is_dir() else {}
        finished = {
            name
            for name in found
            if "-" in name
            and not name.endswith(".part")
            and all(found.get(pair) == self._after.get(pair) for pair in (_with(name, "tar"), _with(name, "json")))
        }
        if self._replaces and found == self._after:
            finished = set()  # a whole set is replaced again, as is asked for
        before = stamps(directory) if finished else {}
        self.act(directory)
        assert files(directory) == self._after
        assert {name: stamp for name, stamp in stamps(directory).items() if name in finished} == {
            name: before[name] for name in finished
        }
        shutil.rmtree(directory)

    def _check_cut_off(self, directory: Path) -> None:
        found = files(directory)
        for name, data in found.items():
            if not name.endswith(".part"):
                assert data in (self._before.get(name), self._after.get(name)), f"{name} is neither the old nor the new"
        if any("-" in name and not name.endswith(".part") for name in found):
            plan = Plan.read(directory)  # at no time are there shards of which nobody knows what they are
            indexed = [shard for shard in plan.shards() if shard.index in found]
            harmed = [shard.tar for shard in indexed if damage(directory, shard, plan)]
            assert harmed in ([], [HARMED] if self._before.get(HARMED) != self._after.get(HARMED) else [])
            assert not {name for name in found if name.endswith(".json") and "-" in name} - {s.index for s in indexed}


def _with(name: str, ending: str) -> str:
    return f"{name.rpartition('.')[0]}.{ending}"
