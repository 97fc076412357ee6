"""A disk that is really full: a file system of 4 MiB."""

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import prebake.cli.precompute
from prebake.cli.run import run_command
from prebake.errors import MachineError
from prebake.format.verify import damage
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import torchvision_transform
from tests.helpers import small
from tests.helpers.trials import Trial, trial

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
Record = Callable[[str, object], None]
ROOT = Path(__file__).parent.parent
SIZE = 4 * 2**20
NO_MOUNT = 71
NEW_USER, NEW_MOUNTS, PRIVATE = 0x10000000, 0x00020000, 1 << 18 | 1 << 14
DIGITS = ("--dataset", "digits", "--workers", "2", "--epochs")


def on_a_small_disk(act: Callable[[], object], disk: Path) -> Trial:
    """Try something while a file system of 4 MiB is mounted for it alone; skip where nobody may mount."""

    def mounted() -> None:
        try:
            _mount(disk)
        except OSError as error:
            print(error)  # noqa: T201 - the reason
            sys.exit(NO_MOUNT)
        act()

    ended = trial(mounted, seconds=120)
    if ended.status == NO_MOUNT:
        pytest.skip(f"a file system can't be mounted here: {ended.said}")
    return ended


def _mount(disk: Path) -> None:
    """Mount it in a name space of this process alone, whose end unmounts it."""
    system = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(system, name)(*arguments):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), name)

    user, group = os.getuid(), os.getgid()
    call("unshare", NEW_MOUNTS if user == 0 else NEW_MOUNTS | NEW_USER)
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    call("mount", b"none", b"/", None, PRIVATE, None)
    call("mount", b"tmpfs", os.fsencode(disk), b"tmpfs", 0, f"size={SIZE}".encode())


def command(arguments: Sequence[str]) -> tuple[int, str]:
    """Run `python -m precompute`; return its exit code and what it said."""
    done = subprocess.run([sys.executable, "-m", "precompute", *arguments], cwd=ROOT, capture_output=True, check=False)
    return done.returncode, done.stderr.decode()


def forked(arguments: Sequence[str], *, looks: bool = True) -> tuple[int, str]:
    """Run it in a fork, which need not import anything; if it never `looks`, it finds space wherever it bakes."""

    def act() -> None:
        sys.argv = ["precompute", *arguments]
        if not looks:
            for module in (prebake.cli.precompute, sys.modules["prebake.precompute.bake"]):
                setattr(module, "check_space", lambda *_: None)  # noqa: B010 - mypy knows that modules have others
        run_command(prebake.cli.precompute.main)

    ended = trial(act, seconds=100)
    return ended.status, ended.said


@pytest.mark.parametrize(
    ("run", "options"),
    [
        (forked, []),
        pytest.param(command, [], marks=pytest.mark.slow),
        pytest.param(command, ["--augment", "trivial-augment-wide"], marks=pytest.mark.slow),
    ],
    ids=["fork", "command", "processes"],
)
def test_a_bake_on_a_full_disk_can_be_resumed(
    run: Callable[[Sequence[str]], tuple[int, str]], options: list[str], tmp_path: Path, record_property: Record
) -> None:
    def bake(epochs: int) -> list[str]:
        return [*DIGITS, str(epochs), "--out", str(tmp_path), *options]

    def act() -> None:
        code, said = run(bake(40))
        assert (code, said.splitlines()[-1].startswith(f"error: {tmp_path}")) == (4, True), said
        assert re.search(r"9\.94 MB are to be written, 4\.\d+ MB are free; free some space", said), said
        assert not list(tmp_path.iterdir())
        other = tmp_path / "other"
        other.write_bytes(bytes(SIZE - 2**20))  # as if it were written after that look
        code, said = forked(bake(12), looks=False)
        assert (code, said.splitlines()[-1].startswith(f"error: {tmp_path}/digits/")) == (4, True), said
        assert re.search(r"No space left on device; \S+ MB are still to be written, \S+ \S+ are free", said), said
        data = ShardSet(tmp_path / "digits")
        whole = set(data.plan.shards()) - {shard for shard in data.plan.shards() if shard.tar in data.missing()}
        assert whole
        assert [damage(data.path, shard, data.plan) for shard in whole] == [None] * len(whole)
        assert not list(data.path.glob("*.part"))
        other.unlink()
        code, said = run(bake(12))
        assert code == 0, said
        assert data.missing() == []
        assert [damage(data.path, shard, data.plan) for shard in data.plan.shards()] == [None] * 13

    ended = on_a_small_disk(act, tmp_path)
    assert ended.status == 0, ended.said
    record_property("cases", 2)


def test_a_full_dev_shm_is_not_called_a_full_disk(tmp_path: Path) -> None:
    shared = Path("/dev/shm")  # noqa: S108 - where Linux has semaphores
    computing = replace(small.AUGMENTATION, transform=torchvision_transform("RandAugment"))

    def act() -> None:
        (shared / "other").write_bytes(bytes(SIZE))
        with pytest.raises(MachineError, match=r"need semaphores.*No space left.*make room in /dev/shm"):
            small.bake(tmp_path / "set", augment=computing, epochs=1, workers=1)
        assert not list(tmp_path.rglob("*.part"))

    ended = on_a_small_disk(act, shared)
    assert ended.status == 0, ended.said
