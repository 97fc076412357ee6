"""Devices and precisions: what is chosen, and what is refused."""

import json
import platform
import subprocess
import sys

import pytest
import torch

from prebake.errors import MachineError, UsageError
from prebake.train.device import PRECISIONS, autocast, choose_device, choose_precision, synchronize
from tests.helpers.commands import ROOT

CPU = torch.device("cpu")
# Fills 64 MiB again and again, and tells how many pages came from the system each time; before, and as memory is kept.
FAULTS = """
import json
import resource

import torch

from prebake.train.device import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.full((2**24,), 1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = [faults() for _ in range(5)]
keep_freed_memory()
print(json.dumps([given_back, [faults() for _ in range(20)]]))
"""


@pytest.fixture
def _only_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def _one_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: number + 0)


@pytest.mark.usefixtures("_only_a_cpu")
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_a_machine_with_only_a_cpu_gives_the_cpu(name: str) -> None:
    assert choose_device(name) == CPU


@pytest.mark.usefixtures("_one_cuda_device")
@pytest.mark.parametrize(("name", "chosen"), [("auto", "cuda"), ("cuda", "cuda"), ("cuda:0", "cuda:0"), ("cpu", "cpu")])
def test_cuda_is_the_default_device_where_available(name: str, chosen: str) -> None:
    assert choose_device(name) == torch.device(chosen)


@pytest.mark.usefixtures("_one_cuda_device")
def test_a_missing_second_cuda_device_is_a_machine_error() -> None:
    with pytest.raises(MachineError, match="no cuda:1"):
        choose_device("cuda:1")


@pytest.mark.usefixtures("_only_a_cpu")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_not_there_is_the_machines_lack(name: str) -> None:
    with pytest.raises(MachineError, match=f"no {name}; there is cpu$"):
        choose_device(name)


@pytest.mark.parametrize("name", ["tpu", "", "cuda:first", "GPU"])
def test_an_unknown_device_is_refused_with_a_list_of_those_known(name: str) -> None:
    with pytest.raises(UsageError, match=f"expected auto or one of cuda, mps, cpu.*found {name!r}"):
        choose_device(name)


def test_a_device_whose_number_is_left_out_is_refused() -> None:
    with pytest.raises(UsageError, match="--device"):
        choose_device("cpu:")


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_a_cpu_takes_bf16_only_where_it_computes_it_natively(
    native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert choose_precision("auto", CPU) == chosen


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "fp16")])
def test_bf16_is_the_cuda_default_only_where_it_is_native(
    native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert choose_precision("auto", torch.device("cuda")) == chosen


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_cpu_trains_in_the_precision_that_is_asked(name: str) -> None:
    assert choose_precision(name, CPU) == name


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_fp16_is_refused_without_cuda(device: str) -> None:
    assert choose_precision("fp16", torch.device("cuda")) == "fp16"
    with pytest.raises(UsageError, match=f"fp16 needs a CUDA device, found {device}"):
        choose_precision("fp16", torch.device(device))


def test_an_unknown_precision_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="found 'fp8'") as caught:
        choose_precision("fp8", CPU)
    assert all(name in str(caught.value) for name in PRECISIONS)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_forward_pass_uses_the_chosen_precision(precision: str, dtype: torch.dtype) -> None:
    with autocast(CPU, precision):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == dtype


def test_a_cpu_has_nothing_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", asked.append)
    synchronize(CPU)
    assert asked == []
    synchronize(torch.device("cuda"))
    assert asked == [torch.device("cuda")]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other habits")
def test_memory_that_is_kept_is_not_cleared_page_by_page_again() -> None:
    # In a process of its own: the heaps of other threads, one of which a fork may have, don't hold so large blocks.
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True, check=True)
    given_back, kept = json.loads(done.stdout)
    assert min(kept) < min(given_back) / 10, (given_back, kept)
