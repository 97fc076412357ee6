"""Attacks by the kind of a file: each puts something that is no plain file, or an endless one, into a set."""

import os
import shutil
import socket
from pathlib import Path

PLACES = ("manifest.json", "train-e000-000.json", "train-e000-000.tar")


def pipe(path: Path) -> None:
    """A pipe that nobody writes to: opening it would wait forever."""
    path.unlink()
    os.mkfifo(path)


def socket_at(path: Path) -> None:
    """Make a socket where there is nothing yet."""
    before = Path.cwd()
    os.chdir(path.parent)  # such a name may only have some hundred letters
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


def socket_file(path: Path) -> None:
    """A socket."""
    path.unlink()
    socket_at(path)


def directory(path: Path) -> None:
    """A directory."""
    path.unlink()
    path.mkdir()


def endless_link(path: Path) -> None:
    """A link to a device that never ends."""
    path.unlink()
    path.symlink_to("/dev/zero")


def process_link(path: Path) -> None:
    """A link to a file of the system whose size reads 0."""
    path.unlink()
    path.symlink_to("/proc/self/environ" if Path("/proc/self/environ").exists() else os.devnull)


def itself(path: Path) -> None:
    """A link to itself."""
    path.unlink()
    path.symlink_to(path.name)


def nowhere(path: Path) -> None:
    """A link to a file that is not there."""
    path.unlink()
    path.symlink_to("absent")


def huge(path: Path) -> None:
    """A file of a tebibyte that takes no space."""
    os.truncate(path, 2**40)


def elsewhere(path: Path) -> None:
    """A link to the file itself, kept in another directory: common practice, and harmless."""
    away = path.parent.parent / f"{path.parent.name}-elsewhere"
    away.mkdir(exist_ok=True)
    path.symlink_to(shutil.move(path, away / path.name))


def hard_link(path: Path) -> None:
    """A second name for the file."""
    os.link(path, path.with_name("another name"))
