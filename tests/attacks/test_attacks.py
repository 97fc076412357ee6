"""Every attack ends in an error of ours or does no harm: in time, in little memory, with nothing run or written."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import prebake
import prebake.cli.shards  # so that nothing is left to import under the guard
from prebake.cli.main import main
from prebake.errors import DataError, MachineError, PrebakeError
from prebake.loader.grid import draw_grid, views
from prebake.loader.shard_set import ShardSet
from tests.attacks import archives, kinds, manifests
from tests.attacks.doors import Guard, by_batches, by_stream, samples_of, visit
from tests.attacks.hostile import INDEX, TAR, reseal, reseal_manifest, troubles
from tests.helpers.trials import Trial, trial

Attack = Callable[[Path], None]
Read = tuple[list[bytes], PrebakeError | None]
Record = Callable[[str, object], None]
MAX_SECONDS, MAX_BYTES = 2.0, 256 * 2**20

# What is refused and by which words; None where reading goes on as the format says, to the bytes at the planned places.
KINDS: dict[Attack, str | None] = {
    kinds.pipe: "a pipe|missing",
    kinds.socket_file: "a socket|missing",
    kinds.directory: "a directory|missing",
    kinds.endless_link: "a device|missing",
    kinds.process_link: "not JSON|at most|bytes expected|a device|missing",
    kinds.itself: "no regular file|missing|no manifest",
    kinds.nowhere: "missing|no manifest",
    kinds.huge: "expected at most|bytes expected, 1099511627776 found",
    kinds.elsewhere: None,
    kinds.hard_link: None,
}
CONTENTS: dict[Attack, str | None] = {
    archives.lying_npy_header: None,
    archives.lying_tar_headers: None,
    archives.pickled_member: None,
    archives.compressed: None,
    archives.source_index_huge: None,
    archives.behind_the_end: "bytes after the last record are not zero",
    archives.label_beyond: "expected labels from 0 to 3, found 0 to 4",
    archives.label_negative: "expected labels from 0 to 3, found -1 to 3",
    archives.label_huge: "found 0 to 9223372036854775807",
    archives.label_least: "found -9223372036854775808 to 3",
    manifests.most_samples: "missing|expected at most",
    manifests.most_shards: "expected at most 32768 shards, found 4294967295",
    manifests.many_epochs: "expected at most 8192 epochs, found 50000",
    manifests.many_sizes: "of another plan",
    manifests.many_channels: "expected at most 4096 channels, found 100000",
    manifests.many_classes: "expected at most 65536 classes, found 400000",
    manifests.no_class: "classes: expected at least one",
    manifests.huge_record: r"train-e000-000\.tar: \d+ bytes expected, \d+ found|no memory for",
    manifests.huge_records_index: r"train-e000-000\.tar: \d+ bytes expected, \d+ found",
    manifests.terminal: "missing",
    manifests.path_as_name: "name: expected",
    manifests.url_as_name: "name: expected",
}
# Framing is not read by the fast reader, so lies there mislead nobody; `verify` holds it against the plan.
REPORTED = {archives.lying_npy_header, archives.lying_tar_headers, archives.pickled_member, archives.compressed}


def visited(attack: Attack, victim: Path) -> tuple[Trial, list[str]]:
    """Visit an attacked set in a fork that may do nothing; return how that ended and the errors' words."""
    attack(victim)

    def act() -> None:
        with Guard():
            started = time.process_time()
            errors = visit(victim)
            seconds = time.process_time() - started
        for error in errors:
            print(error)  # noqa: T201 - said to the parent
        print(seconds)  # noqa: T201 - likewise

    before = sorted(os.listdir(victim))  # noqa: PTH208 - names alone
    ended = trial(act, seconds=30)
    assert sorted(os.listdir(victim)) == before  # noqa: PTH208 - likewise
    assert ended.status == 0, ended.said
    *errors, seconds = ended.said.splitlines()
    assert float(seconds) < MAX_SECONDS, attack
    if sys.platform == "linux":
        assert ended.grown_bytes < MAX_BYTES, (attack, ended.grown_bytes)
    return ended, errors


@pytest.mark.parametrize("place", kinds.PLACES)
@pytest.mark.parametrize("attack", KINDS, ids=lambda attack: attack.__name__)
def test_anything_instead_of_a_file_is_refused_or_read_right(
    attack: Attack, place: str, victim: Path, record_property: Record
) -> None:
    record_property("cases", 1)
    _, errors = visited(lambda directory: attack(directory / place), victim)
    words = KINDS[attack]
    if words is None:
        assert errors == []
        return
    assert errors
    matched = [error for error in errors if place.partition(".")[0] in error]
    assert matched or "is no shard set" in errors[0], errors
    with pytest.raises(DataError, match=words):
        list(ShardSet(victim).batches("train", 0, batch_size=40))


@pytest.mark.parametrize("attack", CONTENTS, ids=lambda attack: attack.__name__)
def test_any_content_of_a_file_is_refused_or_read_right(attack: Attack, victim: Path, record_property: Record) -> None:
    record_property("cases", 1)
    _, errors = visited(attack, victim)
    words = CONTENTS[attack]
    if words is not None:
        assert errors
        for read in (by_batches, by_stream):
            found, error = _read(victim, read)
            assert found == []
            with pytest.raises((DataError, MachineError), match=words):
                raise error or AssertionError("nothing was refused")
        return
    expected = list(samples_of(ShardSet(victim), "train", 0))
    assert len(expected) == 150
    for read in (by_batches, by_stream):
        assert _read(victim, read) == (expected, None)
    if attack in REPORTED:
        (trouble,) = troubles(victim)
        assert f"{TAR}, record e000-r00000: headers or padding differ from the format" in trouble


def _read(victim: Path, read: Callable[[ShardSet], Read]) -> Read:
    try:
        data = ShardSet(victim)
    except PrebakeError as error:
        return [], error
    return read(data)


def ran(*arguments: object) -> tuple[int, str]:
    """Run `python -m shards` in a fork that may do nothing; return exit code and words."""

    def act() -> None:
        sys.argv = ["prebake", *map(str, arguments)]
        with Guard():
            main()

    ended = trial(act, seconds=30)
    return ended.status, ended.said


COMMANDED = [*KINDS, archives.lying_tar_headers, archives.label_beyond, manifests.most_shards, manifests.path_as_name]


@pytest.mark.parametrize("attack", COMMANDED, ids=lambda attack: attack.__name__)
def test_the_commands_end_with_3_or_do_their_work(attack: Attack, victim: Path, record_property: Record) -> None:
    record_property("cases", 1)
    attack(victim / TAR if attack in KINDS else victim)
    statuses = {}
    for name in ("info", "verify"):
        statuses[name], said = ran(name, victim)
        assert statuses[name] in (0, 3), said
        assert "Traceback" not in said
        assert all(line.isprintable() for line in said.splitlines()), said
    words = {**KINDS, **CONTENTS}[attack]
    assert statuses["verify"] == (3 if words or attack in REPORTED else 0)


def test_text_of_a_manifest_is_printed_escaped(victim: Path) -> None:
    manifests.terminal(victim)
    status, said = ran("info", victim)
    assert status == 0
    assert r"\x1b]0;owned\x07" in said
    assert all(line.isprintable() for line in said.splitlines())
    status, said = ran("info", victim, "--json")
    assert (status, said.replace("\n", "").isprintable()) == (0, True)


def test_an_index_of_another_plan_is_named_escaped(victim: Path) -> None:
    reseal(victim / INDEX, lambda content: content.update(identity="\x1b[2J"))
    _, errors = visited(lambda _: None, victim)
    assert any(r"\x1b[2J found" in error for error in errors)


def test_pixels_that_are_not_finite_are_read_as_stored(tmp_path: Path) -> None:
    # They are what was written, by hash; training ends over the loss that they give.
    prebake.bake(
        np.arange(90, dtype=np.uint8).reshape(10, 3, 3, 1), np.arange(10) % 4, augment="plain", epochs=1, out=tmp_path
    )

    def edit(data: bytearray) -> None:
        data[640:646] = np.array([np.nan, np.inf, -np.inf], np.float16).tobytes()

    archives.rewrite(tmp_path, edit)
    (found,), error = (by_stream(ShardSet(tmp_path), batch_size=10)[0][:1], by_stream(ShardSet(tmp_path))[1])
    assert error is None
    assert found[:6] == np.array([np.nan, np.inf, -np.inf], np.float16).tobytes()
    data = ShardSet(tmp_path)
    assert views(data, [0, 1], [0]).shape == (2, 1, 3, 3, 1)


def test_a_std_without_finite_pixels_is_refused(victim: Path) -> None:
    manifests.tiny_std(victim)
    with pytest.raises(DataError, match="give pixels that are not finite"):
        ShardSet(victim).normalize(np.zeros((1, 3, 3, 1), np.uint8))


def test_a_grid_of_images_that_do_not_exist_is_refused(victim: Path, tmp_path: Path) -> None:
    archives.source_index_huge(victim)
    absent = set(range(150)) - {int(i) for record in ShardSet(victim).records("train", 0) for i in record.index_N}
    with pytest.raises(DataError, match=f"epoch 0 holds no image {min(absent)}"):
        draw_grid(ShardSet(victim), sorted(absent), [0], tmp_path / "grid.png")
    assert not (tmp_path / "grid.png").exists()


def test_a_grid_shortens_and_escapes_class_names(victim: Path, tmp_path: Path) -> None:
    names = ["\ud800", "x" * 100_000, "\x1b[2J", "\n" * 1000]
    bake_with_classes(victim, names)
    draw_grid(ShardSet(victim), range(8), [0, 1], tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def bake_with_classes(victim: Path, names: list[str]) -> None:
    """Give a set other class names, and its indexes the identity that follows."""
    reseal_manifest(victim, lambda content: content["source"].update(classes=names))
    identity = ShardSet(victim).plan.identity
    for path in victim.glob("train-*.json"):
        reseal(path, lambda content: content.update(identity=identity))


def test_webdataset_gets_checked_records_and_runs_nothing(
    victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives.pickled_member(victim)
    expected = by_batches(ShardSet(victim))[0]
    list(ShardSet(victim).webdataset("train", 0))  # once, so that everything is imported
    monkeypatch.chdir(tmp_path)
    for name in ("pipe:touch owned;", "file:x", "http:", "a{b,c}d", "::", "-", "a b\u00e9"):
        victim = victim.rename(tmp_path / name)
        for path in (victim, Path(name)):

            def act(path: Path = path) -> None:
                with Guard():
                    found = [
                        image.tobytes() + label.tobytes()
                        for images, labels in ShardSet(path).webdataset("train", 0)
                        for image, label in zip(images, labels, strict=True)
                    ]
                assert found == expected

            ended = trial(act)
            assert (ended.status, ended.said) == (0, "")
    assert not list(tmp_path.rglob("owned"))
    with (victim / TAR).open("r+b") as file:
        file.seek(700)
        file.write(b"x")
    with pytest.raises(DataError, match="bytes differ"):
        list(ShardSet(victim).webdataset("train", 0))
