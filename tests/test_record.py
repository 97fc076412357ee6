"""Records: tarfile and numpy.load read the bytes that Frame and Layout write."""

import io
import tarfile

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from prebake.format.columns import COLUMN_DTYPES, IMAGE_DTYPES, Column, standard_columns
from prebake.format.record import RECORD_BYTES, RECORD_SAMPLES, Frame, Layout, samples_per_record

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
USER_SHAPES = st.lists(st.integers(1, 4), max_size=8).map(tuple)
USER_COLUMNS = st.lists(
    st.builds(
        Column, st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True), st.sampled_from(COLUMN_DTYPES), USER_SHAPES
    ),
    max_size=3,
    unique_by=lambda column: column.name,
).filter(lambda columns: not {column.name for column in columns} & {"images", "index", "labels"})
COLUMNS = st.builds(
    lambda shape, dtype, user: (*standard_columns(shape, dtype), *user),
    SHAPES,
    st.sampled_from(IMAGE_DTYPES),
    USER_COLUMNS,
)
LAYOUTS = st.builds(Layout, st.integers(1, 200), COLUMNS)
WIDEST = Column("a" * 32, "float64", (2**26, 1, 1, 1, 1, 1, 1, 8))


def filled(layout: Layout, seed: int) -> Frame:
    """Return a frame named `e007-r00031` with random bits in all columns."""
    rng = np.random.default_rng(seed)
    frame = Frame(layout)
    for array in frame.columns.values():
        array.reshape(-1).view(np.uint8)[:] = rng.integers(0, 2, array.nbytes, dtype=np.uint8)
    frame.name("e007-r00031")
    return frame


@given(layout=LAYOUTS, seed=st.integers(0, 2**32))
@example(Layout(128, standard_columns((32, 32, 3), "float16")), 0)
@example(Layout(128, (Column("soft_labels", "float16", (10,)),)), 0)
def test_tarfile_and_numpy_read_every_column(layout: Layout, seed: int) -> None:
    frame = filled(layout, seed)
    with tarfile.open(fileobj=io.BytesIO(bytes(frame.extent) + bytes(1024)), mode="r:") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [f"e007-r00031.{column.name}.npy" for column in layout.columns]
        for member, column in zip(members, layout.columns, strict=True):
            assert (member.mode, member.uid, member.gid, member.mtime) == (0o644, 0, 0, 0)
            assert member.isreg()
            assert member.offset_data + 128 == layout.offsets[column.name]
            file = archive.extractfile(member)
            assert file is not None
            array = np.load(io.BytesIO(file.read()), allow_pickle=False)
            assert array.dtype == column.dtype
            assert array.shape == (layout.samples, *column.shape)
            assert array.tobytes() == frame.columns[column.name].tobytes()
    assert layout.size_bytes == len(frame.extent)
    assert layout.size_bytes - (members[-1].offset_data + members[-1].size) in range(512)


@given(layout=LAYOUTS)
def test_bytes_outside_headers_and_columns_are_zero(layout: Layout) -> None:
    extent = bytearray(filled(layout, 1).extent)
    with tarfile.open(fileobj=io.BytesIO(bytes(extent) + bytes(1024)), mode="r:") as archive:
        for member in archive.getmembers():
            extent[member.offset : member.offset_data + member.size] = bytes(512 + member.size)
    assert not any(extent)


def test_columns_are_little_endian_on_any_machine() -> None:
    for dtype, descriptor in (("float16", b"'<f2'"), ("uint8", b"'|u1'"), ("float32", b"'<f4'")):
        extent = bytes(Frame(Layout(3, standard_columns((2, 2, 1), dtype))).extent)
        assert descriptor in extent[512:640]
        assert b"'<u4'" in extent
        assert b"'<i8'" in extent


def test_the_longest_name_and_shape_fit_into_the_headers() -> None:
    layout = Layout(1, (WIDEST,))
    assert layout.size_bytes == 512 + 512 + 2**32
    small = Layout(1, (Column(WIDEST.name, "float64", (1,) * 8),))
    with tarfile.open(fileobj=io.BytesIO(bytes(filled(small, 0).extent) + bytes(1024)), mode="r:") as archive:
        assert archive.getnames() == [f"e007-r00031.{WIDEST.name}.npy"]


def test_a_new_key_leaves_the_samples_as_they_are() -> None:
    frame = filled(Layout(5, standard_columns((2, 3, 1), "uint8")), 2)
    before = {name: array.tobytes() for name, array in frame.columns.items()}
    frame.name("test-r00000")
    assert {name: array.tobytes() for name, array in frame.columns.items()} == before
    with tarfile.open(fileobj=io.BytesIO(bytes(frame.extent) + bytes(1024)), mode="r:") as archive:
        assert archive.getnames() == [f"test-r00000.{name}.npy" for name in ("images", "index", "labels")]


@given(
    shape=st.tuples(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 4)),
    dtype=st.sampled_from(IMAGE_DTYPES),
    target=st.integers(1, 10**6),
)
@example(shape=(64, 64, 4), dtype="uint8", target=1)
@example(shape=(1, 1, 1), dtype="uint8", target=2**19)
def test_a_record_holds_128_samples_or_two_mebibytes(shape: tuple[int, int, int], dtype: str, target: int) -> None:
    columns = (*standard_columns(shape, dtype), Column("target", "float32", (target,)))
    sample_bytes = shape[0] * shape[1] * shape[2] * np.dtype(dtype).itemsize + 4 * target
    samples = samples_per_record(columns)
    assert 1 <= samples <= RECORD_SAMPLES == 128
    assert samples * sample_bytes <= RECORD_BYTES == 2 * 2**20 or samples == 1
    assert samples == 128 or (samples + 1) * sample_bytes > RECORD_BYTES


def test_index_and_labels_do_not_count_as_record_size() -> None:
    assert samples_per_record(standard_columns((128, 128, 1), "uint8")) == 128
    assert samples_per_record(standard_columns((128, 129, 1), "uint8")) == 127
    assert samples_per_record(standard_columns((32, 32, 3), "float32")) == 128
    assert samples_per_record(standard_columns((224, 224, 3), "float16")) == 6
    assert samples_per_record(standard_columns((4096, 4096, 3), "uint8")) == 1
