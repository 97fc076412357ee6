"""`feed` normalizes all stored dtypes alike, and yields NCHW images in channels_last memory."""

import gc

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import prebake
from prebake.loader.data_wait import DataWaitMeter
from prebake.loader.device_feed import RING, Converter, feed
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream

CPU = torch.device("cpu")
ENCODINGS = ("float16", "uint8", "float32")


@pytest.fixture(scope="module")
def pictures() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Colour images whose channels differ in mean and standard deviation."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (50, 6, 10, 3)) * np.array([0.2, 0.5, 1.0]) + np.array([100, 50, 0])
    return pixels.astype(np.uint8), rng.integers(0, 4, 50)


@pytest.fixture(scope="module")
def encoded(
    pictures: tuple[NDArray[np.uint8], NDArray[np.int64]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ShardSet]:
    """The same unaugmented colour images in every dtype."""
    root = tmp_path_factory.mktemp("encoded")
    for dtype in ENCODINGS:
        prebake.bake(*pictures, augment="plain", epochs=1, dtype=dtype, out=root / dtype)
    return {dtype: ShardSet(root / dtype) for dtype in ENCODINGS}


@pytest.mark.parametrize("dtype", ENCODINGS)
def test_the_converter_normalizes_as_the_reader_does(encoded: dict[str, ShardSet], dtype: str) -> None:
    data = encoded[dtype]
    ((images, _),) = data.batches("train", batch_size=50)
    found = Converter(data.plan, CPU, torch.float32)(torch.from_numpy(images))
    wanted = data.normalize(images).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", ENCODINGS)
def test_all_encodings_give_the_same_normalized_values(
    encoded: dict[str, ShardSet], dtype: str, pictures: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    pixels = pictures[0] / 255
    normalized = (pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))
    data = encoded[dtype]
    (record,) = data.records("train")
    stored, index_N = record.images_NHWC, record.index_N
    found = Converter(data.plan, CPU, torch.float32)(torch.from_numpy(stored.copy()))
    # Half precision has 11 bits: 2**-11 of a value under 4 at the most.
    tolerance = 4 * 2**-11 if dtype == "float16" else 1e-5
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), normalized[index_N], rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", ENCODINGS)
def test_images_are_nchw_channels_last_in_the_chosen_dtype(
    encoded: dict[str, ShardSet], stored: str, dtype: torch.dtype
) -> None:
    data = encoded[stored]
    ((images, _),) = data.batches("train", batch_size=50)
    found = Converter(data.plan, CPU, dtype)(torch.from_numpy(images))
    assert found.dtype == dtype
    assert found.shape == (50, 3, 6, 10)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not found.is_contiguous()


@pytest.mark.parametrize("dtype", ENCODINGS)
def test_the_feed_hands_on_every_batch_converted_and_in_order(encoded: dict[str, ShardSet], dtype: str) -> None:
    data = encoded[dtype]
    convert = Converter(data.plan, CPU, torch.float32)
    wanted = list(data.batches("train", batch_size=16))
    number = 0
    with Stream(data, "train", [0], 16) as stream:
        for (images, labels), (wanted_images, wanted_labels) in zip(feed(stream, convert, CPU), wanted, strict=True):
            assert torch.equal(images, convert(torch.from_numpy(wanted_images)))
            assert torch.equal(labels, torch.from_numpy(wanted_labels))
            assert labels.dtype == torch.int64
            number += 1
    assert number == 4


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ENCODINGS)
@pytest.mark.parametrize("batch_size", [1, 16, 50])
def test_the_feed_on_cuda_equals_the_feed_on_the_cpu(encoded: dict[str, ShardSet], dtype: str, batch_size: int) -> None:
    data, cuda = encoded[dtype], torch.device("cuda")
    with Stream(data, "train", [0] * 20, batch_size) as stream:
        on_cpu = [
            (images.clone(), labels.clone())
            for images, labels in feed(stream, Converter(data.plan, CPU, torch.float32), CPU)
        ]
    with Stream(data, "train", [0] * 20, batch_size, pin=True) as stream:
        on_cuda = [
            (images.clone(), labels.clone())
            for images, labels in feed(stream, Converter(data.plan, cuda, torch.float32), cuda)
        ]
    assert len(on_cpu) == len(on_cuda) == 20 * -(-50 // batch_size)
    for (images, labels), (cuda_images, cuda_labels) in zip(on_cpu, on_cuda, strict=True):
        assert cuda_images.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(cuda_images.cpu(), images, rtol=0, atol=2e-6)
        assert torch.equal(cuda_labels.cpu(), labels)


@pytest.mark.gpu
@pytest.mark.parametrize("stored", ENCODINGS)
def test_on_cuda_every_step_reads_its_own_batch(encoded: dict[str, ShardSet], stored: str) -> None:
    data, cuda = encoded[stored], torch.device("cuda")
    dtype = torch.float16 if stored == "float16" else torch.float32  # so that what is stored is not converted
    load = torch.ones(4096, 4096, device=cuda)
    sums: list[torch.Tensor] = []
    with Stream(data, "train", [0] * 40, 16, pin=True) as stream:
        for number, (images, labels) in enumerate(feed(stream, Converter(data.plan, cuda, dtype), cuda)):
            if number % 7 == 0:
                for _ in range(20):  # some steps take long, and copies are enqueued behind them meanwhile
                    load = load @ load / 4096
            sums.append(torch.stack([images.double().sum(), labels.double().sum()]))
    found = torch.stack(sums).cpu()
    convert = Converter(data.plan, CPU, dtype)
    with Stream(data, "train", [0], 16) as stream:
        wanted = [torch.stack([convert(images).double().sum(), labels.double().sum()]) for images, labels in stream]
    torch.testing.assert_close(found, torch.stack(wanted * 40), rtol=0, atol=1e-3)


@pytest.mark.gpu
def test_on_cuda_raw_batches_use_a_fixed_amount_of_memory(encoded: dict[str, ShardSet]) -> None:
    data, cuda = encoded["float16"], torch.device("cuda")
    held: list[int] = []
    gc.collect()  # the trainers of other tests
    with Stream(data, "train", [0] * 20, 16, pin=True) as stream:
        for _ in feed(stream, Converter(data.plan, cuda, torch.float16), cuda):
            held.append(torch.cuda.memory_allocated(cuda))
    assert set(held[RING:]) == {held[RING]}


def test_waits_are_taken_down_for_every_batch(encoded: dict[str, ShardSet]) -> None:
    data, waits = encoded["uint8"], DataWaitMeter(CPU)
    with Stream(data, "train", [0, 0], 16) as stream:
        batches = feed(stream, Converter(data.plan, CPU, torch.float32), CPU, waits)
        assert waits.take() == []
        assert len(list(batches)) == 8
    assert len(waits.take()) == 8
