"""Predictions: of every sample of a split, in the shards' order, however it is cut into batches; and their score."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import prebake.train.evaluate
from prebake.loader.shard_set import ShardSet
from prebake.train.evaluate import evaluate, final_split, predict, shifted

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def mirrored(shards: Path) -> ShardSet:
    """A set whose training images were flipped; 50 to test."""
    return ShardSet(shards / "mirrored")


@pytest.fixture
def model() -> nn.Module:
    """A net that was never trained, for which it matters where in an image something is."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def all_of(data: ShardSet, split: str) -> tuple[torch.Tensor, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return a split's images (N, C, H, W), normalized, and labels."""
    ((images_NHWC, labels_N),) = data.batches(split, batch_size=data.samples(split))
    return torch.from_numpy(data.normalize(images_NHWC)).permute(0, 3, 1, 2), labels_N


def moved(images: torch.Tensor, pixels: int) -> torch.Tensor:
    """Move images by one pixel as airbench does: a window of the padded ones."""
    padded, at = nn.functional.pad(images, (1, 1, 1, 1), "reflect"), 1 - pixels
    return padded[..., at : at + images.shape[2], at : at + images.shape[3]]


def test_predictions_keep_order_although_buffers_are_reused(
    baked: ShardSet, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The largest split: it does not fit into the stream's ring at once.
    monkeypatch.setattr(prebake.train.evaluate, "BATCH_SIZE", 7)
    found = predict(model, baked, "train", CPU, "fp32", tta=True)
    images, labels = all_of(baked, "train")
    assert found.split == "train"
    assert np.array_equal(found.labels_N.numpy(), labels)
    assert found.shifted_NK is not None
    with torch.no_grad():
        torch.testing.assert_close(found.logits_NK, model(images))
        torch.testing.assert_close(found.shifted_NK, (model(moved(images, -1)) + model(moved(images, 1))) / 2)


def test_tta_mirrors_images_if_training_images_were_flipped(mirrored: ShardSet, model: nn.Module) -> None:
    found = predict(model, mirrored, "test", CPU, "fp32", tta=True)
    images, _ = all_of(mirrored, "test")
    assert found.mirrored_NK is not None
    assert found.shifted_NK is not None
    with torch.no_grad():
        torch.testing.assert_close(found.mirrored_NK, model(images.flip(3)))
        copies = [moved(images, -1), moved(images, 1)]
        four = [model(copy) for copy in copies] + [model(copy.flip(3)) for copy in copies]
        torch.testing.assert_close(found.shifted_NK, sum(four) / 2)


def test_without_tta_the_model_sees_only_the_images(mirrored: ShardSet, model: nn.Module) -> None:
    found = predict(model, mirrored, "test", CPU, "fp32")
    assert (found.mirrored_NK, found.shifted_NK) == (None, None)
    score = found.score()
    assert (score.accuracy_tta, score.accuracy_shift_tta) == (None, None)


@pytest.mark.parametrize("flipped", [True, False])
def test_a_score_is_the_plain_mean_over_the_split(
    flipped: bool, mirrored: ShardSet, tiny: ShardSet, model: nn.Module
) -> None:
    data = mirrored if flipped else tiny
    score = evaluate(model, data, "test", CPU, "fp32", tta=True)
    images, labels = all_of(data, "test")

    def ask(copy: torch.Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        with torch.no_grad():
            logits = model(copy) + model(copy.flip(3)) if flipped else model(copy)
            return np.asarray(logits.numpy())

    with torch.no_grad():
        logits = model(images).numpy()
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    assert score.loss == pytest.approx(losses.mean(), abs=1e-5)
    assert score.accuracy == (logits.argmax(1) == labels).mean()
    assert score.accuracy_tta == ((ask(images).argmax(1) == labels).mean() if flipped else None)
    weighed = 0.5 * ask(images) + 0.25 * ask(moved(images, -1)) + 0.25 * ask(moved(images, 1))
    assert score.accuracy_shift_tta == (weighed.argmax(1) == labels).mean()
    assert len({score.accuracy, score.accuracy_tta, score.accuracy_shift_tta}) == 3


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
def test_a_shifted_image_has_its_border_reflected(dtype: torch.dtype) -> None:
    image = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=dtype)[None, None]
    down_right, up_left = [[5, 4, 5], [2, 1, 2]], [[5, 6, 5], [2, 3, 2]]
    assert torch.equal(shifted(image, 1), torch.tensor(down_right, dtype=dtype)[None, None])
    assert torch.equal(shifted(image, -1), torch.tensor(up_left, dtype=dtype)[None, None])
    assert image.flatten().tolist() == [1, 2, 3, 4, 5, 6]


def test_a_run_is_judged_by_its_test_split_where_there_is_one(baked: ShardSet, tiny: ShardSet) -> None:
    assert "val" in baked.splits
    assert final_split(baked) == final_split(tiny) == "test"
