"""Tasks of one bake write the bytes of a whole bake: at the same time, twice, killed and restarted."""

import contextlib
import errno
import fcntl
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from prebake.errors import DataError, MachineError, UsageError
from prebake.format.manifest import MANIFEST, Plan, Shard
from prebake.format.record import Frame
from prebake.format.writer import ShardFile, create_shard
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import Augmentation, torchvision_transform
from prebake.precompute.augmenters import Augmenter, augmenter_for
from prebake.precompute.drop import drop_epochs
from prebake.precompute.resume import discard_parts
from prebake.precompute.shard_writer import ShardWriter
from prebake.precompute.task import Task
from prebake.storage.atomic import write_atomic
from prebake.storage.lock import bake_seconds, is_locked, locked
from tests.helpers.faults import Operations
from tests.helpers.sessions import Session
from tests.helpers.small import AUGMENTATION, bake, bake_share, files, flip_byte, source_and_plan, stamps
from tests.helpers.trials import trial

PATIENCE = 300.0
EVERY = pytest.param(1, marks=pytest.mark.slow, id="every")
Record = Callable[[str, object], None]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that don't wait until a whole bake has ended."""
    monkeypatch.setattr("prebake.precompute.task.LOCK_TIMEOUT_SECONDS", 0.0)


def parts(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.part"))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_tasks_in_any_order_give_the_bytes_of_one_bake(count: int, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    planned = [shard.tar for shard in ShardSet(done).plan.shards()]
    left = set(planned)
    for number in reversed(range(count)):
        missing = bake_share(out, f"{number}/{count}")
        left -= set(planned[number::count])
        assert set(missing) == left == set(planned) - {path.name for path in out.glob("*.tar")}
        assert ShardSet(out).missing() == missing
    assert left == set()
    assert files(out) == files(done)


@pytest.mark.slow  # a process that imports torch takes seconds
def test_worker_processes_bake_a_share(tmp_path: Path) -> None:
    augment = Augmentation("any", 2, "reflect", "random", 2, transform=torchvision_transform("TrivialAugmentWide"))
    options: dict[str, Any] = {"augment": augment, "epochs": 1, "workers": 1, "val_fraction": 0}
    bake_share(tmp_path / "set", "1/2", **options)
    assert files(tmp_path / "set").keys() == {"manifest.json", "train-e000-000.tar", "train-e000-000.json"}
    bake_share(tmp_path / "set", "0/2", **options)
    assert files(tmp_path / "set") == files(bake(tmp_path / "whole", **options).path)


@pytest.mark.parametrize("step", [41, EVERY])
@pytest.mark.parametrize("task", ["0/2", pytest.param("0/1", marks=pytest.mark.slow)])
def test_the_same_task_may_run_twice_at_once(
    task: str, step: int, done: Path, tmp_path: Path, record_property: Record
) -> None:
    """The second runs whole within one operation of the first, and tidies up, held back by no lock."""

    def act(directory: Path, at: int) -> None:
        def twin(number: int, _name: str) -> None:
            if number == at:
                bake_share(directory, task, workers=1)
                discard_parts(directory)

        fcntl.flock = lambda *_: None  # as where it reaches no other machine
        operations = Operations(directory, twin)
        bake_share(directory, task, workers=1)
        assert len(operations.seen) > at
        bake_share(directory, "1/2", workers=1)

    cases = 0
    for number in range(0, 1000, step):
        out = tmp_path / str(number)
        ended = trial(lambda out=out, number=number: act(out, number))  # type: ignore[misc]
        if "len(operations.seen) > at" in ended.said:
            break
        assert ended.status == 0, ended.said
        assert files(out) == files(done), number
        cases += 1
    assert cases > 1
    record_property("cases", cases)


def test_a_task_repairs_its_own_share_and_touches_nothing_else(there: Path, done: Path) -> None:
    before = stamps(there)
    for name in ("train-e001-000.tar", "train-e002-000.tar"):  # numbers 3 and 4 of the plan
        flip_byte(there / name, 3000)
    assert bake_share(there, "3/5") == []
    changed = {name for name, stamp in stamps(there).items() if stamp != before[name]}
    assert changed == {"train-e001-000.tar", "train-e001-000.json", "train-e002-000.tar"}  # the last was only harmed
    bake_share(there, "4/5")
    assert files(there) == files(done)


def test_the_last_task_removes_files_of_killed_tasks(tmp_path: Path) -> None:
    bake_share(tmp_path, "0/2")
    left = [f"train-e001-000.tar.{'0a' * 8}.part", f"pixels.{'0b' * 8}.part", f"manifest.json.{'0c' * 8}.part"]
    for name in left:
        (tmp_path / name).write_bytes(b"half")
    bake_share(tmp_path, "0/2")
    assert parts(tmp_path) == sorted(left)
    with locked(tmp_path, shared=True):
        assert bake_share(tmp_path, "1/2") == []
        assert parts(tmp_path) == sorted(left)
    bake_share(tmp_path, "1/2")
    assert parts(tmp_path) == []


@pytest.mark.usefixtures("hasty")
def test_a_task_and_a_whole_bake_keep_each_other_out(there: Path) -> None:
    before = files(there)
    with locked(there, shared=True):
        assert is_locked(there)
        for act in (lambda: bake(there, overwrite=True), lambda: drop_epochs(ShardSet(there), 1)):
            with pytest.raises(DataError, match=rf"process {os.getpid()} on .*, or a task beside it, is baking here"):
                act()
        assert bake_share(there, "0/2") == []
    with locked(there), pytest.raises(DataError, match=rf"process {os.getpid()} on '[^']*' is baking here"):
        bake_share(there, "0/2")
    assert not is_locked(there)
    assert files(there) == before


def test_tasks_of_another_plan_are_refused_and_write_nothing(there: Path) -> None:
    before = files(there), stamps(there)
    with pytest.raises(DataError, match="seed is 0 there, 1 asked for"):
        bake_share(there, "0/2", seed=1)
    assert (files(there), stamps(there)) == before


@pytest.mark.usefixtures("hasty")
def test_tasks_add_epochs_once_the_others_have_ended(there: Path, tmp_path: Path) -> None:
    with locked(there, shared=True), pytest.raises(DataError, match="is baking here"):
        bake_share(there, "0/2", epochs=5)
    assert Plan.read(there).epochs == 3
    for number in range(2):
        bake_share(there, f"{number}/2", epochs=5)
    assert bake_share(there, "0/2") == []  # who asks for fewer finds them all
    assert files(there) == files(bake(tmp_path / "whole", epochs=5).path)


def test_a_task_stops_when_another_plan_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no lock reaches the other machine: its manifest comes in the middle of a task."""
    _, other = source_and_plan(seed=1)

    @contextlib.contextmanager
    def creating(directory: Path, *arguments: Any) -> Iterator[ShardFile]:
        with create_shard(directory, *arguments) as archive:
            yield archive
        write_atomic(directory / MANIFEST, other.to_bytes())

    monkeypatch.setattr("prebake.precompute.shard_writer.create_shard", creating)
    with pytest.raises(DataError, match=r"manifest\.json: of another plan now .* End one of the two") as caught:
        bake_share(tmp_path, "0/1", workers=1)
    assert caught.value.exit_code == 3
    assert files(tmp_path).keys() == {MANIFEST, "test-000.tar", "test-000.json"}


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_tasks_work_on_a_file_system_without_locks(tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_locks(monkeypatch)
    with pytest.raises(MachineError, match=r"bake\.lock: this file system has no locks .* --task 0/1"):
        bake(tmp_path / "set")
    bake_share(tmp_path / "set", "1/2")
    bake_share(tmp_path / "set", "0/2")
    assert files(tmp_path / "set") == files(done)


def test_a_reader_without_write_permission_sees_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def of_nfs(descriptor: int, how: int) -> None:
        if how & fcntl.LOCK_EX and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_the_seconds_of_all_tasks_are_added_up(tmp_path: Path) -> None:
    bake_share(tmp_path, "0/2")
    first = bake_seconds(tmp_path)
    bake_share(tmp_path, "1/2")
    both = bake_seconds(tmp_path)
    assert first is not None
    assert both is not None
    assert 0 < first < both


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8/8", "tasks count from 0, so 8 of them from 0/8 to 7/8; found 8/8"),
        ("0/0", "expected I/N, such as 0/8"),
        ("-1/8", "expected I/N"),
        ("1", "expected I/N"),
        ("1/8 ", "expected I/N"),
        ("1/x", "expected I/N"),
        ("\u0661/8", "expected I/N"),  # a digit elsewhere
        ("0/9999999", "expected I/N"),
    ],
)
def test_a_malformed_task_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"--task: .*{said}"):
        Task.parse(text)
    assert str(Task.parse("007/008")) == "7/8"


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [6])
def test_tasks_killed_at_random_complete_when_restarted(rounds: int, tmp_path: Path, record_property: Record) -> None:
    """Four commands, two of them the same task; each that was killed, or waits for nothing more, is started again."""
    options = ("--dataset", "digits", "--epochs", 100, "--workers", 1, "--out")
    whole = Session.start("precompute", *options, tmp_path / "whole")
    assert whole.ended(PATIENCE)[0] == 0
    rng, kills = random.Random(7), 0  # noqa: S311 - no secrets
    for number in range(rounds):
        out = tmp_path / str(number)
        tasks = ["0/3", "1/3", "1/3", "2/3"]
        running = {slot: Session.start("precompute", *options, out, "--task", task) for slot, task in enumerate(tasks)}
        for _ in range(8):
            time.sleep(rng.uniform(0.2, 2.5))
            slot = rng.choice(list(running))
            if running[slot].process.poll() is None:
                running[slot].send(signal.SIGKILL)
                kills += 1
            assert running[slot].ended(PATIENCE)[0] in (0, -signal.SIGKILL)
            running[slot] = Session.start("precompute", *options, out, "--task", tasks[slot])
        said = [session.ended(PATIENCE) for session in running.values()]
        assert {code for code, _, _ in said} == {0}, said
        assert any("the set is whole" in out for _, out, _ in said)
        assert files(out / "digits") == files(tmp_path / "whole" / "digits")
    record_property("cases", kills)


class Waiting:
    """An augmenter that waits, after its first record, for permission to go on."""

    def __init__(self, augmenter: Augmenter) -> None:
        self._augmenter = augmenter
        self.begun, self.go_on = threading.Event(), threading.Event()

    def records(self, shard: Shard) -> Iterator[Frame]:
        for number, frame in enumerate(self._augmenter.records(shard)):
            if number:
                self.begun.set()
                assert self.go_on.wait(60)
            yield frame


def test_two_writers_of_one_shard_do_not_disturb_each_other(tmp_path: Path, done: Path) -> None:
    source, plan = source_and_plan()
    (tmp_path / MANIFEST).write_bytes(plan.to_bytes())
    (shard,) = plan.shards("train", 0)
    both = [Waiting(augmenter_for(source, AUGMENTATION, plan, shard)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        ended = []
        for waiting in both:
            writer = ShardWriter(tmp_path, plan.identity)
            ended.append(pool.submit(writer.write, waiting, shard, threading.Event()))
            assert waiting.begun.wait(60)
        for waiting, future in zip(both, ended, strict=True):
            waiting.go_on.set()
            future.result(60)
            for name in (shard.tar, shard.index):
                assert (tmp_path / name).read_bytes() == (done / name).read_bytes()
    assert parts(tmp_path) == []
