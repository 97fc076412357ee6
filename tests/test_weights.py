"""Weights: what is saved is what is loaded, and nothing else is taken for weights."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from prebake.errors import DataError
from prebake.loader.shard_set import ShardSet
from prebake.train.models.davidnet import DavidNet
from prebake.train.recipes import DIGITS
from prebake.train.tensors import read_tensors, write_tensors
from prebake.train.trainer import Trainer
from prebake.train.weights import Trained, load_weights, save_weights


@pytest.fixture(scope="module")
def saved(trained: Trainer, tiny: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run's weights; read only."""
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    source = tiny.plan.source
    about = (source.classes, (8, 8, 1), source.mean, source.std)
    save_weights(path, Trained(trained.learner.model, trained.settings.recipe, *about))
    return path


def test_loaded_weights_give_identical_logits(saved: Path, trained: Trainer) -> None:
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    trained.learner.model.eval()
    loaded = load_weights(saved)
    with torch.no_grad():
        # The trainer's model lies in channels_last memory, where sums may round otherwise.
        ours = loaded.model.to(memory_format=torch.channels_last)(images)
        assert torch.equal(ours, trained.learner.model(images))
    trained.learner.model.train()


def test_loaded_weights_are_the_trained_ones_bit_by_bit(saved: Path, trained: Trainer) -> None:
    loaded, there = load_weights(saved).model.state_dict(), trained.learner.model.state_dict()
    assert loaded.keys() == there.keys()
    assert all(torch.equal(tensor, there[name]) for name, tensor in loaded.items())


def test_all_that_is_needed_to_use_them_comes_along(saved: Path, trained: Trainer, tiny: ShardSet) -> None:
    loaded = load_weights(saved)
    source = tiny.plan.source
    assert not loaded.model.training
    assert loaded.recipe == trained.settings.recipe
    assert loaded.classes == source.classes
    assert loaded.image_shape == tiny.image_shape("test")
    assert (loaded.mean, loaded.std) == (source.mean, source.std)


def test_saving_leaves_one_file(saved: Path) -> None:
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_missing_weights_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no weights here; name the directory of a finished run"):
        load_weights(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 5_000, 1_000_000, -1])
def test_truncated_weights_are_refused(saved: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"weights.safetensors: not the weights of a run"):
        load_weights(path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"prebake": ""},
        {"prebake": "[]"},
        {"prebake": "{}"},
        {"prebake": json.dumps({"recipe": {"name": "mine", "layers": 9}})},
    ],
)
def test_foreign_safetensors_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"head.weight": torch.zeros(10, 512)}, path, metadata=metadata)
    with pytest.raises(DataError, match=r"weights.safetensors: not the weights of a run"):
        load_weights(path)


def test_tensors_of_another_shape_or_name_are_refused(saved: Path, tmp_path: Path) -> None:
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    head = tensors["head.weight"]
    rest = {name: tensor for name, tensor in tensors.items() if name != "head.weight"}
    for changed in ({**rest, "head.weight": head[:9].clone()}, rest, {**tensors, "head.bias": head[0].clone()}):
        path = tmp_path / "weights.safetensors"
        save_file(changed, path, metadata=metadata)
        with pytest.raises(DataError, match=r"weights.safetensors: not the weights of a run"):
            load_weights(path)


def test_a_model_for_other_images_is_saved_with_its_own_shape(trained: Trainer, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    recipe = replace(trained.settings.recipe, model_options={"head_scale": 0.5})
    save_weights(path, Trained(trained.learner.model, recipe, tuple("abcdefghij"), (28, 20, 1), (0.1,), (0.3,)))
    loaded = load_weights(path)
    assert (loaded.recipe, loaded.classes, loaded.image_shape) == (recipe, tuple("abcdefghij"), (28, 20, 1))
    assert isinstance(loaded.model, DavidNet)
    assert loaded.model.head.scale == 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"image_shape": [8, 8, 10**9], "mean": [0.0], "std": [1.0]},
        {"image_shape": [10**9, 10**9, 1]},
        {"image_shape": [8, 8, True]},
        {"image_shape": [8, 8]},
        {"image_shape": [0, 8, 1]},
        {"mean": [0.1, 0.2]},
        {"std": [0.0]},
        {"std": ["1"]},
        {"classes": []},
        {"classes": ["a", "b"]},
        {"classes": [0] * 10},
        {"recipe": []},
        {"recipe": {}},
        {"recipe": {**asdict(DIGITS), "model_options": {"celu_alpha": "1"}}},
        {"recipe": {**asdict(DIGITS), "model_options": {"layers": 9}}},
        {"recipe": {**asdict(DIGITS), "epochs": True}},
        {"recipe": {**asdict(DIGITS), "batch_size": -1}},
        {"recipe": {**asdict(DIGITS), "model": "other"}},
        {"recipe": {**asdict(DIGITS), "layers": 9}},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_untrusted_metadata_is_checked_against_the_weights(
    saved: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    tensors, about = read_tensors(saved)
    path = tmp_path / "weights.safetensors"
    write_tensors(path, tensors, {**about.content, **changes})
    with pytest.raises(DataError, match=r"weights.safetensors: not the weights of a run"):
        load_weights(path)


def test_weights_of_another_precision_are_refused(saved: Path, tmp_path: Path) -> None:
    tensors, about = read_tensors(saved)
    tensors["head.weight"] = tensors["head.weight"].double()
    write_tensors(tmp_path / "file", tensors, about.content)
    with pytest.raises(DataError, match=r"head\.weight: expected torch\.float32, found torch\.float64"):
        load_weights(tmp_path / "file")
