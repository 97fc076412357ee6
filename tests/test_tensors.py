"""Files of tensors: what is written is what is read, and any change is noticed before anything is made of it."""

import itertools
import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from prebake.errors import DataError
from prebake.train.tensors import read_tensors, write_tensors

TENSORS = {
    "weight": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).to(torch.float32),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, dtype=torch.float64),
    "half": torch.tensor([1.5, -2], dtype=torch.bfloat16),
    "random": torch.arange(9, dtype=torch.uint8),
}
ABOUT: dict[str, Any] = {"epoch": 3, "rates": [0.1, 1 / 3], "name": "täst"}
Record = Callable[[str, object], None]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file of the tensors above."""
    write_tensors(tmp_path / "file", TENSORS, ABOUT)
    return tmp_path / "file"


def refused(path: Path, contents: Iterable[bytes]) -> int:
    """Hold that each of these contents is refused with the file's name; return how many there were."""
    count = 0
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(DataError, match=str(path)):
            read_tensors(path)
        count += 1
    return count


def flips(data: bytes, bits: Iterable[int]) -> Iterable[bytes]:
    """Yield the content with one bit flipped, each of these bits of each byte in turn."""
    for bit in bits:
        for position in range(len(data)):
            yield data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def test_tensors_come_back_bit_by_bit_and_the_rest_as_it_was(written: Path) -> None:
    tensors, about = read_tensors(written)
    assert about.content == ABOUT
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert torch.equal(tensor, TENSORS[name])


def test_the_memory_format_of_a_tensor_is_no_part_of_the_file(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 4, 5)
    for name, tensor in {"a": images, "b": images.to(memory_format=torch.channels_last)}.items():
        write_tensors(tmp_path / name, {"x": tensor}, {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_flipped_bit_is_noticed(written: Path, record_property: Record) -> None:
    record_property("cases", refused(written, itertools.islice(flips(written.read_bytes(), [0]), 0, None, 4)))


@pytest.mark.slow
def test_any_flipped_bit_is_noticed(written: Path, record_property: Record) -> None:
    record_property("cases", refused(written, flips(written.read_bytes(), range(8))))


@pytest.mark.slow
def test_any_truncation_is_noticed(written: Path, record_property: Record) -> None:
    data = written.read_bytes()
    record_property("cases", refused(written, (data[:length] for length in range(len(data)))))


def test_a_truncation_and_anything_behind_the_end_is_noticed(written: Path, record_property: Record) -> None:
    data = written.read_bytes()
    contents = [*(data[:length] for length in range(0, len(data), 4)), data[:-1], data + b"\0", data + data]
    record_property("cases", refused(written, contents))


def test_tensors_that_changed_places_or_shapes_are_noticed(written: Path) -> None:
    with safe_open(written, "pt") as file:
        metadata = file.metadata()
    weight = TENSORS["weight"]
    changes: list[dict[str, Tensor]] = [
        {**TENSORS, "weight": weight.reshape(4, 3, 2)},
        {**TENSORS, "weight": weight.view(torch.int32)},
        {**TENSORS, "more": weight.clone()},
        {name: tensor for name, tensor in TENSORS.items() if name != "half"},
        {**TENSORS, "weight": weight + 1},
    ]
    assert refused(written, (save(changed, metadata) for changed in changes)) == len(changes)


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"a":' * 50_000,
        '{"a":1,"a":1}',
        '{"a":NaN}',
        json.dumps({"shapes": {}, "xxh3": "", "checksum": ""}),
    ],
)
def test_a_stranger_s_document_is_refused(tmp_path: Path, document: str) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "file", metadata={"prebake": document})
    with pytest.raises(DataError):
        read_tensors(tmp_path / "file")


class Attack:
    """Something that unpickling would call."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, ("raise SystemExit('it was run')",)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    torch.save({"model": Attack()}, tmp_path / "torch")
    contents = [(tmp_path / "torch").read_bytes(), pickle.dumps(Attack()), b"", b"PK\x03\x04" + bytes(100)]
    assert refused(tmp_path / "file", contents) == 4


@pytest.mark.parametrize("header_bytes", [2**63, 2**40, 10**9, 3])
def test_a_header_that_says_to_be_huge_takes_no_memory(tmp_path: Path, header_bytes: int) -> None:
    assert refused(tmp_path / "file", [header_bytes.to_bytes(8, "little") + b"{}" + bytes(100)]) == 1


def test_a_shape_that_says_to_be_huge_takes_no_memory(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 4]}}).encode()
    assert refused(tmp_path / "file", [len(header).to_bytes(8, "little") + header + bytes(4)]) == 1


def test_a_directory_is_reported_as_unreadable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"can't be read \(Is a directory\)"):
        read_tensors(tmp_path)
