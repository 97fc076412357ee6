"""`ShardSet` in the workers of a torch DataLoader: each sample once, in the order of one process."""

import multiprocessing
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader, IterableDataset

from prebake import ShardSet

pytestmark = [
    # Python 3.12 warns about forks beside threads; the workers here only read files.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    # More workers than cores are slow, and right all the same.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


class Batches(IterableDataset[Any]):
    """Source indices and labels of one epoch, in batches."""

    def __init__(self, path: str, drop_last: bool) -> None:
        self.path, self.drop_last = path, drop_last

    def __iter__(self) -> Iterator[Any]:
        columns = ("index", "labels")
        return ShardSet(self.path).batches("train", 1, batch_size=100, drop_last=self.drop_last, columns=columns)


class Records(IterableDataset[Any]):
    """Source indices of one epoch, record by record."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Any]:
        for record in ShardSet(self.path).records("train", 1):
            yield record.index_N.astype(np.int64)


class OpenedBefore(Records):
    """Source indices of one epoch, through an iterator that the process of the DataLoader has opened."""

    def __init__(self, path: str) -> None:
        self.batches = ShardSet(path).batches("train", 1, batch_size=100, columns=("index",))

    def __iter__(self) -> Iterator[Any]:
        for (indices,) in self.batches:
            yield indices.astype(np.int64)


class WebDataset(Records):
    """Labels of one epoch through webdataset's pipeline."""

    def __iter__(self) -> Iterator[Any]:
        for _, labels in ShardSet(self.path).webdataset("train", 1):
            yield labels


def values(dataset: IterableDataset[Any], workers: int, start: str = "fork") -> list[Any]:
    """Return what a DataLoader with so many workers yields, as lists."""
    context = multiprocessing.get_context(start) if workers else None
    loader = DataLoader(
        dataset, batch_size=None, num_workers=workers, multiprocessing_context=context, collate_fn=partial(as_lists)
    )
    return list(loader)


def as_lists(item: Any) -> Any:
    """Turn arrays into lists."""
    return [as_lists(part) for part in item] if isinstance(item, tuple) else item.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("workers", "start"), [(1, "fork"), (3, "fork"), (2, "spawn")])
def test_workers_yield_the_batches_of_one_process(baked: ShardSet, workers: int, start: str, drop_last: bool) -> None:
    dataset = Batches(str(baked.path), drop_last)
    found = values(dataset, workers, start)
    assert found == values(dataset, 0)
    assert len(found) == (13 if drop_last else 14)


@pytest.mark.parametrize("dataset", [Records, OpenedBefore, WebDataset])
@pytest.mark.parametrize("workers", [2, 12])  # 12 is more than there are records
def test_workers_share_the_records(baked: ShardSet, dataset: type[Records], workers: int) -> None:
    assert values(dataset(str(baked.path)), workers) == values(dataset(str(baked.path)), 0)
