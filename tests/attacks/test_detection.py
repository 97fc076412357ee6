"""Damage is seen: by `verify`, and in training before a sample of the damaged record is handed out."""

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prebake.cli.main import main
from prebake.errors import PrebakeError
from prebake.format.record import BLOCK_BYTES
from prebake.format.verify import damage
from prebake.loader.shard_set import ShardSet
from tests.attacks.doors import by_batches, by_stream
from tests.attacks.hostile import INDEX, TAR

MANIFEST = "manifest.json"
FILES = [TAR, INDEX, MANIFEST]
SCOPE = pytest.mark.parametrize("every", [pytest.param(31, id="a sample"), pytest.param(1, marks=pytest.mark.slow)])
Record = Callable[[str, object], None]


class Seen:
    """Asks whether the damage to one file of a set is seen, through all doors.

    Training gets through two doors, of which the faster one alone stands for both, but at every `both`th question.
    """

    def __init__(self, victim: Path, both: int) -> None:
        self.data = ShardSet(victim)
        self.whole, error = by_batches(self.data)
        assert error is None
        self.remedy = f"Rebuild it: prebake repair {shlex.quote(str(victim))}"
        self.shard = self.data.plan.shards("train", 0)[0]
        with next(self.data.open_shards("train", 0)) as opened:
            self.extents = opened.index.extents
        self.both, self.cases = both, 0

    def check(self, name: str, key: str | None, samples: int) -> None:
        """Hold that the damage to `name`, in record `key` if any, is seen after at most so many samples."""
        self.cases += 1
        if name == MANIFEST:
            with pytest.raises(PrebakeError, match=MANIFEST):
                ShardSet(self.data.path)
            return
        trouble = str(damage(self.data.path, self.shard, self.data.plan))
        assert name in trouble
        assert key is None or f"record {key}: " in trouble
        for read in (by_batches, by_stream) if self.cases % self.both == 0 else (by_batches,):
            found, error = read(self.data)
            assert error is not None
            assert found == self.whole[: len(found)]
            assert len(found) <= samples
            words = str(error)
            assert name in words
            assert key is None or f"record {key}: " in words
            assert self.remedy in words

    def record_at(self, position: int) -> tuple[str | None, int]:
        """Return the key of the record at a byte of the archive, and the number of samples before it."""
        samples = 0
        for extent in self.extents:
            if position < extent.offset + extent.size_bytes:
                return extent.key, samples
            samples += extent.samples
        return None, 0  # the zeros at the end are looked at when it is opened


@contextlib.contextmanager
def flipped(path: Path, position: int, bit: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(descriptor, 1, position)
        os.pwrite(descriptor, bytes([byte[0] ^ 1 << bit]), position)
        yield
        os.pwrite(descriptor, byte, position)
    finally:
        os.close(descriptor)


@SCOPE
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_at_any_byte_is_seen(name: str, every: int, victim: Path, record_property: Record) -> None:
    seen = Seen(victim, both=1 if every == 1 else 2)
    size = (victim / name).stat().st_size
    edges = {extent.offset + at for extent in seen.extents for at in (0, 511, 512, 639, 640, extent.size_bytes - 1)}
    edges |= {size - 1, size - 2 * BLOCK_BYTES - 1, size - 2 * BLOCK_BYTES}
    step = every if name == TAR else max(1, every // 4)
    for position in sorted({*range(0, size, step), *(edge for edge in edges if 0 <= edge < size)}):
        for bit in range(8) if every == 1 else [position % 8]:
            with flipped(victim / name, position, bit):
                seen.check(name, *(seen.record_at(position) if name == TAR else (None, 0)))
    assert by_stream(seen.data) == (seen.whole, None)
    assert damage(victim, seen.shard, seen.data.plan) is None
    record_property("cases", seen.cases)


@SCOPE
@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_at_any_length_or_going_on_is_seen(
    name: str, every: int, victim: Path, record_property: Record
) -> None:
    seen = Seen(victim, both=1 if every == 1 else 4)
    data = (victim / name).read_bytes()
    step = every if name == TAR else max(1, every // 4)
    for length in {*range(0, len(data), step), len(data) - 1, len(data) - BLOCK_BYTES, len(data) - 2 * BLOCK_BYTES}:
        if length >= 0:
            (victim / name).write_bytes(data[:length])
            seen.check(name, None, 0)
    for more in (b"\0", b" ", b"\n", bytes(512), data):
        (victim / name).write_bytes(data + more)
        seen.check(name, None, 0)
    record_property("cases", seen.cases)


LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca2\n"
)
HTML = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [LFS, HTML, b"", b"\x1f\x8b\x08" + bytes(60), b"PK\x03\x04" + bytes(60)])
def test_other_content_in_a_file_is_seen(name: str, content: bytes, victim: Path, record_property: Record) -> None:
    record_property("cases", 1)
    seen = Seen(victim, both=1)
    (victim / name).write_bytes(content)
    seen.check(name, None, 0)
    if content in (LFS, HTML) and name == MANIFEST:
        with pytest.raises(PrebakeError, match="git lfs pull" if content == LFS else "an HTML page"):
            ShardSet(victim)


def exchanged(victim: Path, ending: str) -> None:
    first, second = (victim / f"train-e00{epoch}-000.{ending}" for epoch in (0, 1))
    aside = first.rename(victim / "aside")
    second.rename(first)
    aside.rename(second)


def copied(victim: Path, ending: str) -> None:
    shutil.copy(victim / f"train-e001-000.{ending}", victim / f"train-e000-000.{ending}")


def appended(victim: Path, ending: str) -> None:
    with (victim / f"train-e000-000.{ending}").open("ab") as file:
        file.write((victim / f"train-e001-000.{ending}").read_bytes())


def renamed(victim: Path, ending: str) -> None:
    (victim / f"train-e000-000.{ending}").rename(victim / f"train-e000-001.{ending}")


def missing(victim: Path, ending: str) -> None:
    (victim / f"train-e000-000.{ending}").unlink()


@pytest.mark.parametrize("change", [exchanged, copied, appended, renamed, missing])
@pytest.mark.parametrize("ending", ["tar", "json"])
def test_exchanged_renamed_and_missing_files_are_seen(
    change: Callable[[Path, str], None], ending: str, victim: Path, record_property: Record
) -> None:
    record_property("cases", 1)
    seen = Seen(victim, both=1)
    change(victim, ending)
    for read in (by_batches, by_stream):
        found, error = read(seen.data)
        assert found == []
        assert seen.remedy in str(error)
        assert "train-e000-000" in str(error)
    if (victim / INDEX).exists():
        assert "train-e000-000" in str(damage(victim, seen.shard, seen.data.plan))
    else:
        assert TAR in seen.data.missing()


def verified(directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run `python -m shards verify` in this process; return exit code and all that it said."""
    monkeypatch.setattr(sys, "argv", ["prebake", "verify", str(directory)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out + said.err


def test_verify_names_shard_record_and_repair_command(
    victim: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], record_property: Record
) -> None:
    directory = Path(shutil.copytree(victim, victim.with_name("a set of mine")))
    remedy = f"Rebuild it: prebake repair '{directory}'"
    cases = 0
    for name in FILES:
        size = (directory / name).stat().st_size
        for position in range(0, size, size // 20):
            with flipped(directory / name, position, position % 8):
                code, said = verified(directory, monkeypatch, capsys)
            assert code == 3
            assert name in said
            if name != MANIFEST:
                assert remedy in said
                assert "1 shards damaged (train-e000-000.tar), 0 missing" in said
            if name == TAR and position < size - 1024:
                assert "record e000-r0000" in said
            cases += 1
    (directory / INDEX).unlink()
    code, said = verified(directory, monkeypatch, capsys)
    assert code == 3
    assert f"missing  {TAR}" in said
    assert remedy in said
    shutil.copy(victim / INDEX, directory / INDEX)
    code, said = verified(directory, monkeypatch, capsys)
    assert (code, "2 shards, " in said, "all as written" in said) == (0, True, True)
    record_property("cases", cases)
