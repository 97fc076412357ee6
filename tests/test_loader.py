"""`Loader`: epochs in order, positions that survive a restart, and batches that stay as they are."""

import gc
import itertools
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

import prebake
from prebake import Loader
from prebake.errors import DataError, UsageError
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream
from prebake.precompute.images import SourceData

INDEX = ("images", "labels", "index")


def readers() -> list[threading.Thread]:
    """List the reading threads that are alive."""
    return [thread for thread in threading.enumerate() if thread.name == "prebake-reader"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Any:
    """End every test without a reading thread."""
    yield
    gc.collect()
    assert readers() == []


@pytest.fixture(scope="module")
def three(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Three epochs of 700 digits in uint8, and 100 to test; read only."""
    train, test = digits.splits["train"], digits.splits["test"]
    out = tmp_path_factory.mktemp("three") / "digits"
    prebake.bake(
        train.images_NHWC[:700],
        train.labels_N[:700],
        test=(test.images_NHWC[:100], test.labels_N[:100]),
        name="digits",
        recipe="digits",
        dtype="uint8",
        epochs=3,
        out=out,
    )
    return ShardSet(out)


def indices(loader: Loader) -> list[int]:
    """Play one epoch; return the source indices in order."""
    return [int(i) for _, _, index in loader for i in index]


def baked_indices(data: ShardSet, epoch: int) -> list[int]:
    """Return the source indices of an epoch as baked."""
    return [int(i) for record in data.records("train", epoch) for i in record.index_N]


def test_each_loop_plays_the_next_epoch(three: ShardSet) -> None:
    with Loader(three, batch_size=64, columns=INDEX) as loader:
        for epoch in range(3):
            assert indices(loader) == baked_indices(three, epoch)
            assert loader.epoch == epoch


@pytest.mark.parametrize("split", ["train", "test"])
def test_batches_are_normalized_nchw_in_channels_last_memory(three: ShardSet, split: str) -> None:
    loader = Loader(three.path, split, batch_size=64)
    wanted = three.batches(split, 0, batch_size=64)
    for (images, labels), (stored, stored_labels) in zip(loader, wanted, strict=True):
        assert images.shape == (len(labels), 1, 8, 8)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        normalized = three.normalize(stored).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(images.numpy(), normalized, rtol=0, atol=2e-6)
        assert labels.dtype == torch.int64
        assert labels.tolist() == stored_labels.tolist()
    loader.close()


def test_a_held_out_split_is_played_again_in_each_loop(three: ShardSet) -> None:
    loader = Loader(three, "test", batch_size=30)
    first, second = ([labels.tolist() for _, labels in loader] for _ in range(2))
    assert first == second
    assert [len(labels) for labels in first] == [30, 30, 30, 10]
    assert loader.epoch == 0


def test_batches_are_the_callers_to_keep(three: ShardSet, baked: ShardSet) -> None:
    for data, dtype in ((three, torch.float32), (baked, torch.float16)):  # the second needs no conversion
        with Loader(data, batch_size=16, dtype=dtype, columns=INDEX) as loader:
            kept = list(loader)
        indices_kept = [int(i) for _, _, index in kept for i in index]
        assert indices_kept == baked_indices(data, 0)
        memory = {tensor.data_ptr() for batch in kept for tensor in batch}
        assert len(memory) == 3 * len(kept)


def test_reused_buffers_are_the_memory_of_a_few_batches(baked: ShardSet) -> None:
    memory = set()
    loader = Loader(baked, batch_size=128, dtype=torch.float16, reuse_buffers=True, replay=True)
    for _ in range(5):
        memory |= {images.data_ptr() for images, _ in loader}
    assert len(memory) <= 11
    loader.close()


def test_an_epoch_that_was_not_baked_is_refused(three: ShardSet) -> None:
    loader = Loader(three, batch_size=350)
    for _ in range(3):
        list(loader)
    with pytest.raises(UsageError, match=r"holds 3 epochs, and 4 are asked for.* --epochs 4 .* Or pass replay=True"):
        list(loader)
    with pytest.raises(UsageError, match=r"holds 3 epochs, and 5 are asked for"):
        Loader(three, batch_size=350, epochs=5)


def test_replay_plays_the_views_again(three: ShardSet) -> None:
    with Loader(three, batch_size=64, columns=INDEX, replay=True) as loader:
        played = [indices(loader) for _ in range(7)]
    assert played == [baked_indices(three, epoch % 3) for epoch in range(7)]


def test_a_replayed_view_has_a_different_order(three: ShardSet) -> None:
    with Loader(three, batch_size=64, columns=INDEX, replay=True, shuffle_seed=1) as loader:
        played = [indices(loader) for _ in range(4)]
    assert sorted(played[0]) == sorted(played[3])
    assert played[0] != played[3]


def test_no_epoch_is_played_beyond_those_named(three: ShardSet) -> None:
    loader = Loader(three, batch_size=350, epochs=1)
    assert len(list(loader)) == 2
    with pytest.raises(UsageError, match="has played the 1 epochs that epochs= names"):
        list(loader)


def test_reading_goes_on_across_the_end_of_an_epoch(three: ShardSet) -> None:
    loader = Loader(three, batch_size=64)
    list(loader)
    (thread,) = readers()
    list(loader)
    assert readers() in ([thread], [])  # it ends by itself where the ring holds all of epoch 2
    loader.close()


def test_a_loop_that_takes_exactly_its_batches_keeps_the_reader(three: ShardSet) -> None:
    with Loader(three, batch_size=64, columns=INDEX) as loader:
        (thread,) = readers()
        for epoch in range(3):
            found = [int(i) for _, _, index in itertools.islice(loader, len(loader)) for i in index]
            assert found == baked_indices(three, epoch)
            assert readers() in ([thread], [])


def test_a_loop_left_early_ends_the_reading(three: ShardSet) -> None:
    loader = Loader(three, batch_size=16, columns=INDEX)
    for _ in loader:
        break
    assert readers() == []
    assert indices(loader) == baked_indices(three, 1)
    loader.close()


def test_a_loop_that_fails_ends_the_reading(three: ShardSet) -> None:
    loader = Loader(three, batch_size=16)

    def train() -> None:
        for _ in loader:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train()
    gc.collect()
    assert readers() == []


def test_a_loader_that_is_dropped_ends_the_reading(three: ShardSet) -> None:
    loader = Loader(three, batch_size=1)
    list(loader)
    assert len(readers()) == 1
    del loader
    gc.collect()
    assert readers() == []


def test_asking_for_an_iterator_plays_nothing(three: ShardSet) -> None:
    loader = Loader(three, batch_size=64, columns=INDEX)
    iter(loader)  # Lightning asks to see whether it can
    assert readers() == []
    assert indices(loader) == baked_indices(three, 0)
    loader.close()


def test_two_loops_at_once_are_refused(three: ShardSet) -> None:
    loader = Loader(three, batch_size=64)
    first, second = iter(loader), iter(loader)
    next(first)
    next(second)
    with pytest.raises(UsageError, match="this loop over the Loader can't go on"):
        next(first)
    next(second)
    loader.close()
    with pytest.raises(UsageError, match="this loop over the Loader can't go on"):
        next(second)


@pytest.mark.parametrize(("drop_last", "batches"), [(False, 11), (True, 10)])
def test_len_is_the_number_of_batches_in_an_epoch(three: ShardSet, drop_last: bool, batches: int) -> None:
    with Loader(three, batch_size=64, drop_last=drop_last) as loader:
        assert len(loader) == batches
        assert len(list(loader)) == batches
        next(iter(loader))
        loader.load_state_dict(loader.state_dict())
        assert len(loader) == batches  # not of what is left
        assert len(list(loader)) == batches - 1


def test_set_epoch_names_the_epoch_of_the_next_loop(three: ShardSet) -> None:
    loader = Loader(three, batch_size=64, columns=INDEX)
    for epoch in (2, 0, 0, 1):
        loader.set_epoch(epoch)
        assert loader.epoch == epoch
        assert indices(loader) == baked_indices(three, epoch)
    with pytest.raises(UsageError, match="epoch: expected at least 0, found -1"):
        loader.set_epoch(-1)
    loader.close()


@pytest.mark.parametrize(
    ("columns", "keys"),
    [
        (("labels", "images"), None),
        (("index",), None),
        ({"pixel_values": "images", "labels": "labels"}, ["pixel_values", "labels"]),
    ],
)
def test_columns_come_in_the_order_asked_for(three: ShardSet, columns: Any, keys: list[str] | None) -> None:
    (images, labels, index), *_ = Loader(three, batch_size=700, columns=INDEX)
    by_name = {"images": images, "labels": labels, "index": index}
    (batch,) = Loader(three, batch_size=700, columns=columns, epochs=1)
    if keys:
        assert list(batch) == keys
        batch = tuple(batch.values())
    names = list(columns.values()) if keys else columns
    assert len(batch) == len(names)
    for found, name in zip(batch, names, strict=True):
        assert torch.equal(found, by_name[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, found 0"),
        ({"split": "dev"}, "no split named 'dev'"),
        ({"columns": ("images", "masks")}, "no column named 'masks'; there are images, "),
        ({"rank": 1}, "rank and world_size: expected both or none"),
    ],
)
def test_arguments_out_of_range_are_refused(three: ShardSet, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Loader(three, **{"batch_size": 1, **options})


def test_repr_tells_what_is_played(three: ShardSet) -> None:
    with Loader(three, batch_size=64, shuffle_seed=1, rank=1, world_size=4) as loader:
        next(iter(loader))
        assert repr(loader) == (
            f"Loader('{three.path}', 'train', batch_size=64, device='cpu', dtype=float32: 3 batches of images, labels; "
            "epoch 0 of 3, rank 1 of 4)"
        )


def position(loader: Loader, batches: int) -> dict[str, Any]:
    """Take so many batches of the next epoch; return the state after them."""
    for _ in itertools.islice(loader, batches):
        pass
    return loader.state_dict()


@pytest.mark.parametrize("batches", [0, 1, 5, 10, 11])
@pytest.mark.parametrize("shuffle_seed", [None, 7])
def test_a_state_continues_at_the_next_sample(three: ShardSet, batches: int, shuffle_seed: int | None) -> None:
    with Loader(three, batch_size=64, columns=INDEX, shuffle_seed=shuffle_seed) as loader:
        whole = [indices(loader) for _ in range(3)]
        loader.set_epoch(1)
        state = position(loader, batches)
    with Loader(three, batch_size=30, columns=INDEX, shuffle_seed=shuffle_seed) as resumed:
        resumed.load_state_dict(state)
        done = 64 * batches
        rest = [whole[1][done:], whole[2]] if done < 700 else [whole[2]]
        assert [indices(resumed) for _ in rest] == rest


@settings(max_examples=25)
@given(
    before=st.tuples(st.integers(1, 100), st.integers(1, 4), st.integers(0, 10)),
    after=st.tuples(st.integers(1, 300), st.integers(1, 4)),
)
def test_what_is_left_is_exact_with_other_batch_and_world_sizes(
    three: ShardSet, before: tuple[int, int, int], after: tuple[int, int]
) -> None:
    batch_size, world_size, batches = before
    states, seen = [], []
    for rank in range(world_size):
        with Loader(
            three, batch_size=batch_size, columns=INDEX, rank=rank, world_size=world_size, drop_last=True
        ) as loader:
            seen += [int(i) for _, _, index in itertools.islice(loader, batches) for i in index]
            states.append(loader.state_dict())
    assert all(state == states[0] for state in states)
    if states[0]["epoch"] == 0:
        size, ranks = after
        left = 700 - states[0]["sample"]
        if 0 < left % (size * ranks) < ranks:
            return  # too few for all processes, see below
        for rank in range(ranks):
            with Loader(three, batch_size=size, columns=INDEX, rank=rank, world_size=ranks) as loader:
                loader.load_state_dict(states[0])
                seen += indices(loader)
        assert sorted(seen) == list(range(700))


def test_a_state_is_plain_json(three: ShardSet) -> None:
    with Loader(three, batch_size=64) as loader:
        assert position(loader, 3) == {
            "identity": three.plan.identity,
            "split": "train",
            "shuffle_seed": None,
            "epoch": 0,
            "sample": 192,
        }


def test_a_state_after_the_last_batch_is_the_next_epoch(three: ShardSet) -> None:
    with Loader(three, batch_size=64, drop_last=True) as loader:
        state = position(loader, 10)
        assert (state["epoch"], state["sample"]) == (1, 0)
        loader.load_state_dict(state | {"epoch": 0, "sample": 640})
        assert loader.epoch == 1


def test_a_state_of_a_held_out_split_counts_its_one_epoch(three: ShardSet) -> None:
    with Loader(three, "test", batch_size=30) as loader:
        state = position(loader, 2)
        assert (state["epoch"], state["sample"]) == (0, 60)
        loader.load_state_dict(state)
        assert [len(labels) for _, labels in loader] == [30, 10]
        assert (loader.state_dict()["epoch"], loader.state_dict()["sample"]) == (0, 0)


def test_set_epoch_keeps_a_loaded_position_in_that_epoch(three: ShardSet) -> None:
    with Loader(three, batch_size=64, columns=INDEX) as loader:
        state = position(loader, 5)
        for epoch, first in ((0, 320), (1, 0)):  # the Hugging Face Trainer names every epoch
            loader.load_state_dict(state)
            loader.set_epoch(epoch)
            assert indices(loader) == baked_indices(three, epoch)[first:]


def test_a_loaded_state_ends_a_loop(three: ShardSet) -> None:
    with Loader(three, batch_size=64) as loader:
        loop = iter(loader)
        next(loop)
        loader.load_state_dict(loader.state_dict())
        with pytest.raises(UsageError, match="can't go on"):
            next(loop)


def test_a_state_of_another_loader_is_refused(three: ShardSet, baked: ShardSet) -> None:
    state = Loader(three, batch_size=64).state_dict()
    for other, name in (
        (Loader(baked, batch_size=64), r"shard set \(other data, augmentation, seed or dtype\)"),
        (Loader(three, "test", batch_size=64), "split"),
        (Loader(three, batch_size=64, shuffle_seed=0), "shuffle_seed"),
    ):
        with pytest.raises(DataError, match=f"a Loader with another {name}: .* expected, .* found"):
            other.load_state_dict(state)
    loader = Loader(three, batch_size=64)
    for wrong in ({}, {"epoch": 1}, state | {"sample": 701}, state | {"sample": -1}, state | {"epoch": -1}):
        with pytest.raises(DataError, match=r"expected a Loader's state|expected a position"):
            loader.load_state_dict(wrong)


def test_ranks_with_different_numbers_of_steps_are_refused(three: ShardSet) -> None:
    for rank in range(3):
        options: dict[str, Any] = {"batch_size": 233, "rank": rank, "world_size": 3}  # one sample is left
        with pytest.raises(UsageError, match=r"has 1 samples, too few for 3 processes.* Pass drop_last=True"):
            len(Loader(three, **options))
        assert len(Loader(three, drop_last=True, **options)) == 1
    lengths = [len(Loader(three, "test", batch_size=33, rank=rank, world_size=3)) for rank in range(3)]
    assert lengths == [1, 1, 2]  # an evaluation need not go in step


def test_rank_and_world_size_are_those_of_torch_distributed(three: ShardSet, tmp_path: Path) -> None:
    loader = Loader(three, batch_size=35, columns=INDEX)  # made before the group, as scripts often do
    assert (loader.rank, loader.world_size) == (0, 1)
    code = (
        "import sys, torch.distributed as dist\n"
        "from prebake import Loader\n"
        "loader = Loader(sys.argv[1], batch_size=35, columns=('index',))\n"
        "dist.init_process_group('gloo', f'file://{sys.argv[2]}', rank=int(sys.argv[3]), world_size=2)\n"
        "print(len(loader), *(int(i) for (index,) in loader for i in index))\n"
        "dist.destroy_process_group()\n"
    )
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, three.path, tmp_path / "store", str(rank)], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [process.communicate()[0].split() for process in ranks]
    assert [words[0] for words in said] == ["10", "10"]
    wanted = baked_indices(three, 0)
    assert [int(word) for word in said[0][1:36] + said[1][1:36]] == wanted[:70]
    assert sorted(int(word) for words in said for word in words[1:]) == list(range(700))


def test_a_read_error_is_raised_in_its_own_epoch_only(three: ShardSet, tmp_path: Path) -> None:
    data = ShardSet(shutil.copytree(three.path, tmp_path / "set"))
    (index,) = data.path.glob("train-e001-*.json")
    index.rename(tmp_path / "aside")
    loader = Loader(data, batch_size=64, columns=INDEX)
    assert indices(loader) == baked_indices(three, 0)
    for _ in range(2):
        loader.set_epoch(1)
        with pytest.raises(DataError, match="train epoch 1 is not baked yet"):
            next(iter(loader))
        assert readers() == []
    loader.set_epoch(0)
    indices(loader)  # reads ahead into the missing epoch
    (tmp_path / "aside").rename(index)
    assert indices(loader) == baked_indices(three, 1)
    loader.close()


def in_a_child(work: Callable[[], Any]) -> str:
    """Run work in a forked child; return its result or its error as text. A child that hangs is killed."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def report() -> None:
        try:
            sender.send(repr(work()))
        except BaseException as error:
            sender.send(f"{type(error).__name__}: {error}")

    child = context.Process(target=report)
    child.start()
    said = receiver.recv() if receiver.poll(30) else "stands still"
    child.kill()
    child.join()
    return str(said)


def test_a_loop_begun_in_the_parent_is_refused_in_a_child(three: ShardSet) -> None:
    loader = Loader(three, batch_size=1, columns=INDEX)
    loop = iter(loader)
    next(loop)
    assert f"UsageError: process {os.getpid()} opened this Stream" in in_a_child(lambda: list(loop))
    assert f"UsageError: process {os.getpid()} reads this Loader" in in_a_child(lambda: list(loader))
    assert len(list(loop)) == 699  # and the parent goes on
    loader.close()


def test_a_stream_opened_in_the_parent_is_refused_in_a_child(three: ShardSet) -> None:
    with Stream(three, "train", [0], 16) as stream:
        assert f"UsageError: process {os.getpid()} opened this Stream" in in_a_child(lambda: list(stream))
        assert len(list(stream)) == 44


def test_a_loader_that_does_not_read_yet_may_be_read_in_a_child(three: ShardSet) -> None:
    loader = Loader(three, batch_size=64, columns=INDEX)
    assert in_a_child(lambda: indices(loader)) == repr(baked_indices(three, 0))
    list(loader)
    loader.close()
    assert in_a_child(lambda: indices(loader)) == repr(baked_indices(three, 1))


def test_a_dataloader_without_workers_plays_epoch_after_epoch(three: ShardSet) -> None:
    loader = DataLoader(Loader(three, batch_size=64, columns=INDEX), batch_size=None)
    assert len(loader) == 11
    for epoch in range(3):
        assert [int(i) for _, _, index in loader for i in index] == baked_indices(three, epoch)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("begun", [False, True])
def test_dataloader_workers_are_refused_with_advice(three: ShardSet, start: str, begun: bool) -> None:
    loader = Loader(three, batch_size=64)
    if begun:
        next(iter(loader))
    batches = DataLoader(loader, batch_size=None, num_workers=1, multiprocessing_context=start)
    with pytest.raises(UsageError, match=r"can't be read in DataLoader workers: .* num_workers=0 and batch_size=None"):
        next(iter(batches))


def test_a_pickled_loader_begins_where_the_next_loop_would(three: ShardSet) -> None:
    with Loader(three, batch_size=64, columns=INDEX) as loader:
        list(loader)
        copy = pickle.loads(pickle.dumps(loader))  # noqa: S301 - our own bytes
        assert indices(copy) == baked_indices(three, 1)
        copy.close()


def test_batches_of_plain_tensors_feed_a_training_step(three: ShardSet) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    losses: list[Tensor] = []
    with Loader(three, batch_size=64, drop_last=True) as loader:
        for images, labels in loader:
            losses.append(torch.nn.functional.cross_entropy(model(images), labels))
            losses[-1].backward()
    assert len(losses) == 10
