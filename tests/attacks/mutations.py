"""Structure-aware mutations of a set, each the same whenever its number is."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from prebake.format.columns import Column, columns_to_json, standard_columns
from prebake.format.document import serialize
from tests.attacks.hostile import places, reseal_raw
from tests.attacks.kinds import socket_at

__all__ = ["mutate"]

Change = Callable[[Path, random.Random], str]
HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 127, 128, 129, 255, 256, 511, 512, 1023, 2**15, 2**16, 2**20, 2**28, 2**30),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 10**300, -(2**31), -(2**63)),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, 1.0, 3.0),
    *(
        "",
        "0",
        "-1",
        "../../etc/passwd",
        "/etc/passwd",
        "pipe:touch owned",
        "a{b,c}",
        "\x1b]0;owned\x07",
        "\u202e",
        "\ud800",
    ),
    *("\0", "x" * 70_000, "%s%n", "f" * 16, "0" * 32, "uint8", "float16", "float32", "object", "train", "test"),
    *([], {}, [[]], [{}], [0], [1, 1, 1, 1], [2**32 - 1, 1, 1, 1], [1, 2**15, 2**15, 1], [[150, 3, 3, 1]] * 3),
    *([[1, 1, 1, 1]] * 20_000, ["x"] * 70_000, {"": 0}, {"train": []}, {"$ref": "http://x/"}, {"__class__": "os"}),
]
SMALL = 2**24 + 1
TOKENS = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"0x10",
    b"9" * 5000,
    b"1." + b"3" * 100_000,
    b"\xff",
    b"\0",
]
BOMBS = [b"[" * 5000, b'{"a":' * 5000, b"[" * 900 + b"]" * 900, b"[" * 100 + b"]" * 100, b"[]," * 200_000, b'"\\u0000"']


def mutate(number: int, whole: Path, directory: Path) -> str:
    """Make `directory` a copy of `whole`, and change one to three things in it; return what was changed."""
    dice = random.Random(number)  # noqa: S311 - it must come out the same, not secret
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(whole, directory)
    changes = dice.choices(CHANGES, WEIGHTS, k=dice.choice([1, 1, 1, 2, 3]))
    return "; ".join(f"{change.__name__} {_applied(change, directory, dice)}" for change in changes)


def _applied(change: Change, directory: Path, dice: random.Random) -> str:
    try:
        return change(directory, dice)
    except (OSError, ValueError) as error:
        return f"got in the way of the one before ({type(error).__name__})"


def _files(directory: Path, ending: str = "") -> list[Path]:
    """List the files that are still files, so that changes can follow each other."""
    found = sorted(directory.glob(f"*{ending}"))
    return [path for path in found if path.name != "bake.lock" and _is_plain(path)]


def _is_plain(path: Path) -> bool:
    """Say whether a change can read and write it: not what an earlier change has put there."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size < SMALL


def _pick(dice: random.Random, directory: Path, ending: str = "") -> Path | None:
    found = _files(directory, ending)
    return dice.choice(found) if found else None


def _content(path: Path | None) -> dict[str, Any]:
    if path is None or not _is_plain(path):
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _field(directory: Path, dice: random.Random) -> str:
    """Change values in a document, with checksum and identity that are right again."""
    path = _pick(dice, directory, ".json")
    content = _content(path)
    there = places(content)
    if path is None or not there:
        return "nothing"
    container, key = dice.choice(there)
    action = dice.choice(["set", "set", "set", "nudge", "delete", "double", "copy", "add"])
    before = container[key]
    if action == "nudge" and type(before) is int:
        container[key] = before + dice.choice([-512, -1, 1, 512, before])
    elif action == "delete":
        del container[key]
    elif action == "double" and isinstance(before, list):
        container[key] = before * dice.choice([2, 1000])
    elif action == "copy":
        other, place = dice.choice(there)
        container[key] = json.loads(json.dumps(other[place] if isinstance(other, dict) and place in other else before))
    elif action == "add" and isinstance(before, dict):
        before[dice.choice(["extra", "", "checksum ", "\x1b[2J"])] = dice.choice(HOSTILE)
    else:
        container[key] = dice.choice(HOSTILE)
    reseal_raw(path, content)
    return f"{action} {path.name} {str(key)[:40]!r}"


def _splits(directory: Path, dice: random.Random) -> str:
    """Let a manifest promise other epochs and shapes, consistently."""
    path = directory / "manifest.json"
    content = _content(path)
    if not isinstance(content.get("splits"), dict) or not isinstance(content.get("source"), dict):
        return "nothing"
    sizes = [1, 2, 3, 2**10, 2**15, 2**20, 2**29, 2**30]
    channels = dice.choice([1, 1, 3, 4096, 4097, 2**17])
    shape = [dice.choice(sizes), dice.choice(sizes), channels]
    samples = dice.choice([1, 127, 150, 2**16, 2**31, 2**32 - 1])
    epochs = dice.choice([1, 1, 1, 2, 2, 2, 2, 500, 500, 2**13, 2**13 + 1, 60_000])
    content["splits"][dice.choice(["train", "train", "test", "val"])] = [[samples, *shape]] * epochs
    if dice.random() < 0.3:
        content["splits"]["train"] = [[1, 1 + i % 3000, 1 + i // 3000, channels] for i in range(min(epochs, 2**13))]
        shape = [1, 1, channels]
    content["source"].update(mean=[0.5] * channels, std=[0.5] * channels)
    dtype = dice.choice(["uint8", "float16", "float32"])
    columns = standard_columns((shape[0], shape[1], channels), dtype)
    user = Column("target", dice.choice(["bool", "float64"]), (dice.choice(sizes),) * dice.choice([0, 1, 2, 8]))
    content["columns"] = columns_to_json([*columns, user] if dice.random() < 0.3 else columns)
    content["normalized"] = dtype != "uint8"
    reseal_raw(path, content)
    return f"{samples} of {shape} in {epochs} epochs"


def _text(directory: Path, dice: random.Random) -> str:
    """Change a document's text; its checksum may be made to fit."""
    path = _pick(dice, directory, ".json")
    if path is None:
        return "nothing"
    data = path.read_bytes()
    at = dice.randrange(len(data) + 1)
    action = dice.choice(["token", "bomb", "cut", "repeat", "key twice", "whole bomb"])
    if action == "token":
        data = data[:at] + dice.choice(TOKENS) + data[at + dice.choice([0, 1, 4]) :]
    elif action == "bomb":
        data = data[:at] + dice.choice(BOMBS) + data[at:]
    elif action == "cut":
        data = data[:at] + data[at + dice.randrange(1, 40) :]
    elif action == "repeat":
        data = data[:at] + data[at // 2 :]
    elif action == "key twice":
        data = data.replace(b"{", b'{"a":1,"a":2,', 1)
    else:
        data = dice.choice(BOMBS)
    path.write_bytes(data)
    return f"{action} {path.name} at {at}"


def _bytes(directory: Path, dice: random.Random) -> str:
    """Change bytes of an archive, with hashes that are right again or not."""
    path = _pick(dice, directory, ".tar")
    if path is None or path.stat().st_size == 0:
        return "nothing"
    data = bytearray(path.read_bytes())
    at = dice.randrange(len(data))
    piece = dice.choice([b"\xff", bytes(8), b"\xff" * 8, os.fsencode(json.dumps(HOSTILE[-1])), bytes(range(200))])
    piece = dice.choice([piece, bytes([data[at] ^ 1 << dice.randrange(8)])])
    data[at : at + len(piece)] = piece
    path.write_bytes(data)
    fits = dice.random() < 0.7 and _fit(path)
    return f"{len(piece)} bytes of {path.name} at {at}, hashes {'fit' if fits else 'as before'}"


def _fit(tar: Path) -> bool:
    """Make an index fit its archive again; say whether that was possible."""
    index = tar.with_suffix(".json")
    content = _content(index)
    data = tar.read_bytes()
    try:
        for record in content["records"]:
            start = record["offset"]
            record["xxh3"] = xxhash.xxh3_64_hexdigest(data[start : start + record["bytes"]])
        content["xxh3"] = xxhash.xxh3_128_hexdigest(data)
        del content["checksum"]
        index.write_bytes(serialize(content))
    except (KeyError, TypeError, ValueError):
        return False
    return True


def _length(directory: Path, dice: random.Random) -> str:
    """Cut a file, or let it go on."""
    path = _pick(dice, directory)
    if path is None:
        return "nothing"
    size = path.stat().st_size
    length = dice.choice([0, 1, size // 2, size - 1, size - 512, size - 1024, size + 1, size + 512, 2**24, 2**40])
    os.truncate(path, max(0, length))
    return f"{path.name} to {length}"


def _places(directory: Path, dice: random.Random) -> str:
    """Exchange, copy, rename or remove files."""
    first, second = _pick(dice, directory), _pick(dice, directory)
    if first is None or second is None:
        return "nothing"
    action = dice.choice(["exchange", "copy", "rename", "remove", "append"])
    if action == "exchange" and first != second:
        aside = first.rename(directory / "aside")
        second.rename(first)
        aside.rename(second)
    elif action == "copy" and first != second:
        shutil.copy(first, second)
    elif action == "append":
        second.write_bytes(second.read_bytes() + first.read_bytes())
    elif action == "rename":
        first.rename(directory / dice.choice(["train-e002-000.tar", "manifest.json.part", "x", "test-000.json"]))
    else:
        first.unlink()
    return f"{action} {first.name} {second.name}"


def _kind(directory: Path, dice: random.Random) -> str:
    """Put something else in a file's place."""
    path = _pick(dice, directory)
    if path is None:
        return "nothing"
    data = path.read_bytes()
    path.unlink()
    kind = dice.choice(["directory", "pipe", "socket", "zero", "null", "loop", "dangling", "link", "stdin", "self"])
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket_at(path)
    elif kind == "link":
        path.with_name(f"{path.name}-elsewhere").write_bytes(data)
        path.symlink_to(f"{path.name}-elsewhere")
    else:
        targets = {"zero": "/dev/zero", "null": "/dev/null", "loop": path.name, "dangling": "absent"}
        path.symlink_to({**targets, "stdin": "/dev/stdin", "self": "/proc/self/environ"}[kind])
    return f"{kind} for {path.name}"


CHANGES: list[Change] = [
    _field, _splits, _text, _bytes, _length, _places, _kind
]  # fmt: skip
WEIGHTS = [8, 3, 4, 6, 2, 2, 2]
