"""Shards are ordinary tar files, which webdataset and tar read."""

import shutil
import subprocess

import numpy as np
import pytest
import webdataset as wds

from prebake.errors import DataError, UsageError
from prebake.loader.shard_set import ShardSet

# webdataset 1.0 leaves closing every tar, whoever wrote it, to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def urls(data: ShardSet, split: str, epoch: int) -> list[str]:
    return [str(data.path / shard.tar) for shard in data.plan.shards(split, epoch)]


@pytest.mark.parametrize(("split", "epoch"), [("train", 0), ("train", 1), ("test", 0), ("val", 0)])
def test_the_plain_webdataset_line_reads_every_sample(split: str, epoch: int, baked: ShardSet) -> None:
    records = list(
        wds.WebDataset(urls(baked, split, epoch), shardshuffle=False).decode().to_tuple("images.npy", "labels.npy")
    )
    ours = [(record.images_NHWC.copy(), record.labels_N.copy()) for record in baked.records(split, epoch)]
    assert len(records) == len(ours)
    for (images, labels), (our_images, our_labels) in zip(records, ours, strict=True):
        assert (images.dtype, labels.dtype) == (our_images.dtype, np.int64)
        assert images.tobytes() == our_images.tobytes()
        assert labels.tolist() == our_labels.tolist()


def test_the_set_s_own_pipeline_reads_every_sample(baked: ShardSet) -> None:
    records = list(baked.webdataset("train", 1))
    images_NHWC = np.concatenate([images for images, _ in records])
    labels_N = np.concatenate([labels for _, labels in records])
    ((images, labels),) = baked.batches("train", 1, batch_size=baked.samples("train", 1))
    assert images_NHWC.tobytes() == images.tobytes()
    assert labels_N.tolist() == labels.tolist()


def test_the_pipeline_of_an_epoch_that_is_not_baked_is_refused(
    baked: ShardSet, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = ShardSet(shutil.copytree(baked.path, tmp_path_factory.mktemp("copy") / "set"))
    (data.path / "train-e000-000.json").unlink()
    with pytest.raises(DataError, match=r"not baked yet \(train-e000-000\.tar missing\)"):
        data.webdataset("train", 0)
    with pytest.raises(UsageError, match="epochs 0 to 1"):
        data.webdataset("train", 2)


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar here")
def test_tar_lists_the_members_in_order(baked: ShardSet) -> None:
    command = [shutil.which("tar") or "tar", "tf", str(baked.path / "train-e001-000.tar")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = [f"e001-r{record:05d}.{name}.npy" for record in range(11) for name in ("images", "index", "labels")]
    assert done.stdout.split() == expected
    assert done.stderr == ""
