"""Tar files of pictures."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["png", "write_tar"]


def png(number: int) -> bytes:
    """Return a grey 6x4 picture of that value, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 6), number, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """Write a tar file with those members."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
