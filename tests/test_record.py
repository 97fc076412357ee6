"""Records: what Frame and Layout make of samples is what tarfile and numpy.load read."""

import io
import tarfile

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from prebake.format.record import ENCODINGS, RECORD_BYTES, RECORD_SAMPLES, Frame, Layout, samples_per_record

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
LAYOUTS = st.builds(Layout, st.integers(1, 200), SHAPES, st.sampled_from(ENCODINGS))


def filled(layout: Layout, seed: int) -> Frame:
    """Return a frame named `e007-r00031` with random samples: any bits for the pixels."""
    rng = np.random.default_rng(seed)
    frame = Frame(layout)
    frame.images_NHWC.view(np.uint8).reshape(-1)[:] = rng.integers(0, 256, layout.pixels_bytes, dtype=np.uint8)
    frame.index_N[:] = rng.integers(0, 2**32, layout.samples, dtype=np.uint32)
    frame.labels_N[:] = rng.integers(-(2**63), 2**63 - 1, layout.samples)
    frame.name("e007-r00031")
    return frame


@given(layout=LAYOUTS, seed=st.integers(0, 2**32))
@example(Layout(128, (32, 32, 3), "float16"), 0)
def test_tarfile_and_numpy_read_the_three_members(layout: Layout, seed: int) -> None:
    frame = filled(layout, seed)
    expected = {
        "e007-r00031.images.npy": frame.images_NHWC,
        "e007-r00031.index.npy": frame.index_N,
        "e007-r00031.labels.npy": frame.labels_N,
    }
    with tarfile.open(fileobj=io.BytesIO(bytes(frame.extent) + bytes(1024)), mode="r:") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == list(expected)
        for member in members:
            assert (member.mode, member.uid, member.gid, member.mtime) == (0o644, 0, 0, 0)
            assert member.isreg()
            file = archive.extractfile(member)
            assert file is not None
            array = np.load(io.BytesIO(file.read()), allow_pickle=False)
            assert array.dtype == expected[member.name].dtype
            assert array.shape == expected[member.name].shape
            assert array.tobytes() == expected[member.name].tobytes()


@given(layout=LAYOUTS)
def test_the_offsets_are_where_tarfile_finds_the_arrays(layout: Layout) -> None:
    frame = filled(layout, 0)
    with tarfile.open(fileobj=io.BytesIO(bytes(frame.extent) + bytes(1024)), mode="r:") as archive:
        images, index, labels = archive.getmembers()
    assert images.offset == 0
    assert layout.pixels_offset == images.offset_data + 128
    assert layout.index_offset == index.offset_data + 128
    assert layout.labels_offset == labels.offset_data + 128
    assert layout.pixels_bytes == images.size - 128 == frame.images_NHWC.nbytes
    assert layout.size_bytes == len(frame.extent)
    assert layout.size_bytes % 512 == 0
    assert layout.size_bytes - (labels.offset_data + labels.size) in range(512)


@given(layout=LAYOUTS)
def test_all_that_is_neither_header_nor_array_is_zero(layout: Layout) -> None:
    extent = bytearray(filled(layout, 1).extent)
    with tarfile.open(fileobj=io.BytesIO(bytes(extent) + bytes(1024)), mode="r:") as archive:
        for member in archive.getmembers():
            extent[member.offset : member.offset_data + member.size] = bytes(512 + member.size)
    assert not any(extent)


def test_the_dtypes_are_little_endian_whatever_the_machine() -> None:
    for dtype, descriptor in (("float16", b"'<f2'"), ("uint8", b"'|u1'"), ("float32", b"'<f4'")):
        extent = bytes(Frame(Layout(3, (2, 2, 1), dtype)).extent)
        assert descriptor in extent[512:640]
        assert b"'<u4'" in extent
        assert b"'<i8'" in extent


def test_a_frame_takes_another_key_without_touching_the_samples() -> None:
    frame = filled(Layout(5, (2, 3, 1), "uint8"), 2)
    before = frame.images_NHWC.tobytes(), frame.index_N.tobytes(), frame.labels_N.tobytes()
    frame.name("test-r00000")
    assert (frame.images_NHWC.tobytes(), frame.index_N.tobytes(), frame.labels_N.tobytes()) == before
    with tarfile.open(fileobj=io.BytesIO(bytes(frame.extent) + bytes(1024)), mode="r:") as archive:
        assert archive.getnames() == [f"test-r00000.{name}.npy" for name in ("images", "index", "labels")]


@given(shape=st.tuples(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 4)), dtype=st.sampled_from(ENCODINGS))
@example(shape=(64, 64, 4), dtype="uint8")
@example(shape=(128, 128, 1), dtype="uint8")
@example(shape=(128, 129, 1), dtype="uint8")
def test_a_record_holds_128_samples_or_as_many_as_fit_two_mebibytes(shape: tuple[int, int, int], dtype: str) -> None:
    sample_bytes = shape[0] * shape[1] * shape[2] * np.dtype(dtype).itemsize
    samples = samples_per_record(shape, dtype)
    assert 1 <= samples <= RECORD_SAMPLES == 128
    assert samples * sample_bytes <= RECORD_BYTES == 2 * 2**20 or samples == 1
    assert samples == 128 or (samples + 1) * sample_bytes > RECORD_BYTES


def test_records_of_the_known_data_sets_hold_128_samples() -> None:
    assert samples_per_record((32, 32, 3), "float32") == 128
    assert samples_per_record((224, 224, 3), "float16") == 6
    assert samples_per_record((4096, 4096, 3), "uint8") == 1
