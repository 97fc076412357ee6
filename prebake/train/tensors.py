"""Safetensors files with metadata, in which a checksum covers every byte."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from prebake.errors import DataError
from prebake.format.document import Fields, parse, serialize
from prebake.storage.atomic import write_atomic

__all__ = ["read_tensors", "write_tensors"]

KEY = "prebake"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a file whole or not at all.

    The file's metadata holds one document (FORMAT.md, "Documents"): `about`, the names, dtypes and shapes of the
    tensors, and the xxh3-128 of their bytes in the order of their names.

    Args:
        path: of the file.
        tensors: by name, on any device.
        about: plain JSON values.

    Raises:
        OSError: no space, no permission.
    """
    there = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Tied weights have two names for one memory, which a safetensors file can't hold.
    first_names = {tensor.data_ptr(): name for name, tensor in reversed(there.items())}
    there = {name: t if first_names[t.data_ptr()] == name else t.clone() for name, t in there.items()}
    document = serialize({**about, **_sums(there)})
    write_atomic(path, save(there, metadata={KEY: document.decode("ascii")}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Fields]:
    """Read and check what `write_tensors` wrote: tensors on the CPU, and `about`.

    No code in the file is run. Reading takes at most a few times the file's size of memory.

    Raises:
        DataError: the file can't be read, is of another kind, or was changed since it was written.
    """
    try:
        data = path.read_bytes()
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        document = header["__metadata__"][KEY].encode("ascii")
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error})") from None
    except (SafetensorError, KeyError, ValueError, RuntimeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{path}: not written by this program, or damaged ({reason})") from None
    about = parse(document, path)
    for field, expected in _sums(tensors).items():
        if about.content.pop(field, None) != expected:
            raise DataError(f"{path}: changed since it was written (the tensors' {field} differ)")
    return tensors, about


def _sums(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    digest = xxhash.xxh3_128()
    shapes = {}
    for name in sorted(tensors):
        tensor = tensors[name]
        shapes[name] = [str(tensor.dtype), *tensor.shape]
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return {"shapes": shapes, "xxh3": digest.hexdigest()}
