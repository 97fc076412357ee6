"""Predictions: of every sample of a split, in the shards' order, however it is cut into batches."""

import numpy as np
import pytest
import torch
from torch import nn

import train.evaluate
from shards import ShardSet
from train.evaluate import final_split, predict


def test_predictions_are_of_every_sample_in_order_though_the_stream_takes_its_memory_back(
    baked: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The largest split: it does not fit into the stream's ring at once.
    monkeypatch.setattr(train.evaluate, "BATCH_SIZE", 7)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = predict(model, baked, "train", torch.device("cpu"), "fp32", tta=True)
    ((images, labels),) = baked.batches("train", batch_size=1350)
    images_NCHW = torch.from_numpy(baked.normalize(images)).permute(0, 3, 1, 2)
    assert found.split == "train"
    assert np.array_equal(found.labels_N.numpy(), labels)
    assert found.mirrored_NK is not None
    with torch.no_grad():
        torch.testing.assert_close(found.logits_NK, model(images_NCHW))
        torch.testing.assert_close(found.mirrored_NK, model(images_NCHW.flip(3)))
    assert predict(model, baked, "train", torch.device("cpu"), "fp32").mirrored_NK is None


def test_a_run_is_judged_by_its_test_split_where_there_is_one(baked: ShardSet, tiny: ShardSet) -> None:
    assert "val" in baked.splits
    assert final_split(baked) == final_split(tiny) == "test"
