"""Models that are not ours: from a user's file, from timm, and from Python."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import prebake
import prebake.cli.heatmap
import prebake.cli.predict
import prebake.train.fit
from prebake.errors import UsageError
from prebake.train.models import find_model
from prebake.train.weights import load_weights
from tests.helpers.commands import ON_CPU, Command, log_of, summary_of, the_run
from tests.helpers.nets import MLP, TIED, mlp
from tests.helpers.runs import interrupted_at

FILE = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, channels, num_classes, image_size, width=16):
        height, columns = image_size
        super().__init__(nn.Flatten(), nn.Linear(channels * height * columns, width), nn.Linear(width, num_classes))
"""


@pytest.fixture
def net_file(tmp_path: Path) -> Path:
    """A user's own file with a network that depends on the image size and has no batch norm."""
    path = tmp_path / "nets" / "mine.py"
    path.parent.mkdir()
    path.write_text(FILE)
    return path


def picture(path: Path) -> Path:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    return path


def test_a_users_file_is_trained_and_loaded(net_file: Path, shards: Path, tmp_path: Path, command: Command) -> None:
    options = ("--shards", shards / "digits", "--out", tmp_path / "runs", "--set", "width=20", "--batch-size", 1)
    ended = command(*options, "--epochs", 1, "--model", f"{net_file}:Net", *ON_CPU)
    assert ended.code == 0, ended.err
    run = the_run(tmp_path / "runs")
    assert summary_of(run)["model"] == f"{net_file}:Net"
    assert log_of(run)[0]["settings"]["recipe"]["model_options"] == {"width": 20}
    assert load_weights(run / "weights.safetensors", f"{net_file}:Net").model[1].out_features == 20  # type: ignore[index] # a Sequential


def test_predict_imports_only_a_file_that_it_is_given(
    net_file: Path, shards: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--shards", shards / "digits", "--out", tmp_path / "runs", "--model", f"{net_file}:Net")
    assert command(*options, *ON_CPU).code == 0
    run, image = the_run(tmp_path / "runs"), picture(tmp_path / "image.png")
    predict = ["predict", str(run), str(image)]
    monkeypatch.setattr("sys.argv", predict)
    with pytest.raises(UsageError, match=r"a model of your own, .*mine\.py:Net.* give the option --model FILE.py:NAME"):
        prebake.cli.predict.main()
    moved = shutil.move(net_file, tmp_path / "elsewhere.py")
    for path, error in ((moved, None), (net_file, UsageError)):
        monkeypatch.setattr("sys.argv", [*predict, "--model", f"{path}:Net"])
        if error is None:
            prebake.cli.predict.main()
        else:
            with pytest.raises(error, match=r"no file|has no 'Net'"):
                prebake.cli.predict.main()
    monkeypatch.setattr("sys.argv", [*predict, "--model", MLP])
    with pytest.raises(UsageError, match=rf"the model that {MLP} builds does not fit the weights .*.*mine.py:Net"):
        prebake.cli.predict.main()


def test_predict_says_that_a_builder_needs_arguments(net_file: Path, shards: Path, tmp_path: Path) -> None:
    chosen = {"epochs": 1, "device": "cpu", "precision": "fp32", "out": tmp_path / "runs"}
    result = prebake.fit(shards / "digits", f"{net_file}:Net", **chosen)  # type: ignore[arg-type] # mixed types
    other = tmp_path / "other.py"
    other.write_text(FILE.replace("width=16", "width=16, *, depth"))
    with pytest.raises(UsageError, match=r"'depth' needs a default; .* Or name a function that passes it"):
        load_weights(result.run / "weights.safetensors", f"{other}:Net")


def test_resuming_needs_the_same_source_code(
    net_file: Path, shards: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ("--model", f"{net_file}:Net")
    with monkeypatch.context() as patch:
        patch.setattr("prebake.train.trainer.autocast", interrupted_at(3))
        ended = command("--shards", shards / "digits", "--out", tmp_path / "runs", *model, *ON_CPU)
    assert ended.code == 130, ended.err
    run = the_run(tmp_path / "runs")
    refused = command("--resume", run)
    assert refused.code == 2
    assert f"give --model {net_file}:Net again" in refused.err
    other = tmp_path / "other.py"
    other.write_text(FILE + "\n# changed\n")
    refused = command("--resume", run, "--model", f"{other}:Net")
    assert refused.code == 2
    assert f"--model: {other}:Net has changed since {run} was begun" in refused.err
    moved = shutil.copy(net_file, tmp_path / "copy.py")
    assert command("--resume", run, "--model", f"{moved}:Net").code == 0


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def Net(depth): ...", "its parameter 'depth' needs a default"),
        ("def Net(): return 3", "returned int, expected a torch.nn.Module"),
        (
            "from torch import nn\ndef Net(): return nn.Flatten()",
            "must return logits of shape (2, 10) .*found (2, 64)",
        ),
        ("from torch import nn\ndef Net(): return nn.Linear(5, 10)", "does not take images of shape (2, 1, 8, 8)"),
        ("from torch import nn\ndef Net(): return nn.BatchNorm2d(1)", "must return logits of shape"),
        ("Net = 3", "is no class or function that builds a network"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_at_once(
    source: str, reason: str, shards: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "bad.py").write_text(source)
    model = f"{tmp_path / 'bad.py'}:Net"
    ended = command("--shards", shards / "digits", "--out", tmp_path / "runs", "--model", model, *ON_CPU)
    assert ended.code == 2
    assert "error: --model: " in ended.err
    assert all(part in ended.err for part in reason.split(" .*"))
    assert not (tmp_path / "runs").exists()


def test_a_batch_of_one_needs_a_model_without_batch_norm(shards: Path, tmp_path: Path, command: Command) -> None:
    ended = command("--shards", shards / "digits", "--batch-size", 1, "--out", tmp_path, *ON_CPU)
    assert ended.code == 2
    assert "--batch-size: expected at least 2, as batch norm needs, found 1" in ended.err


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet_ln"])
def test_a_timm_model_trains_in_bfloat16(name: str, shards: Path, tmp_path: Path, command: Command) -> None:
    pytest.importorskip("timm")
    options = ("--shards", shards / "digits", "--out", tmp_path, "--epochs", 1, "--batch-size", 100)
    ended = command(*options, "--model", f"timm:{name}", "--device", "cpu", "--precision", "bf16")
    assert ended.code == 0, ended.err
    assert "reduces 8x8 to 2x2 or less" in ended.err
    loaded = load_weights(the_run(tmp_path) / "weights.safetensors")
    assert loaded.model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_timm_model_of_fixed_size_is_built_for_the_images() -> None:
    pytest.importorskip("timm")
    find_model("timm:test_vit").check(1, 10, [(32, 32)], {})
    with pytest.raises(UsageError, match=r"does not take images of shape \(2, 1, 8, 8\)"):
        find_model("timm:test_vit").check(1, 10, [(8, 8)], {})


def test_an_unknown_timm_name_is_refused_with_a_similar_one() -> None:
    pytest.importorskip("timm")
    with pytest.raises(UsageError, match=r"timm has no model named 'resnet19'; did you mean .*resnet18"):
        find_model("timm:resnet19")
    with pytest.raises(UsageError, match="timm has no model named 'hf-hub:someone/model'"):
        find_model("timm:hf-hub:someone/model")


def test_fit_trains_a_network_in_place(shards: Path, tmp_path: Path) -> None:
    layer = nn.Linear(64, 10)
    network = nn.Sequential(nn.Flatten(), layer)
    before = layer.weight.detach().clone()
    result = prebake.fit(shards / "digits", network, epochs=1, lr=0.05, device="cpu", precision="fp32", out=tmp_path)
    assert result.model is network
    assert not torch.equal(layer.weight, before)
    assert result.run == the_run(tmp_path)
    assert result.summary == summary_of(result.run)


def test_resume_tells_networks_apart_by_their_weights(shards: Path, tmp_path: Path) -> None:
    def fit(seed: int) -> prebake.train.fit.FitResult:
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        chosen = {"epochs": 1, "lr": 0.05, "device": "cpu", "precision": "fp32", "out": tmp_path}
        return prebake.fit(shards / "digits", network, resume=True, **chosen)  # type: ignore[arg-type] # mixed types

    first, other, again = fit(1), fit(2), fit(1)
    assert first.run != other.run
    assert again.run == first.run
    assert again.summary == first.summary


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.bool])
def test_every_tensor_of_a_network_tells_it_from_others(dtype: torch.dtype) -> None:
    def digest(value: int) -> str | None:
        network = nn.Sequential(nn.LazyLinear(10))
        network.register_buffer("table", torch.full((), value).to(dtype))
        return find_model(network).source_sha256

    assert digest(0) == digest(0) != digest(1)


def test_fit_is_the_command(shards: Path, tmp_path: Path, command: Command) -> None:
    options = ("--shards", shards / "digits", "--out", tmp_path / "command", "--model", MLP, "--set", "ema=0.5")
    assert command(*options, "--lr", 0.05, *ON_CPU).code == 0
    chosen = {"lr": 0.05, "hyperparameters": {"ema": 0.5}, "device": "cpu", "precision": "fp32"}
    result = prebake.fit(str(shards / "digits"), mlp, out=tmp_path / "fit", **chosen)  # type: ignore[arg-type] # mixed types
    assert result.summary["test_accuracy"] == summary_of(the_run(tmp_path / "command"))["test_accuracy"]
    again = prebake.fit(shards / "digits", mlp, out=tmp_path / "fit", resume=True, **chosen)  # type: ignore[arg-type] # as above
    assert again.summary == result.summary


def test_fit_raises_an_interruption_that_says_how_to_resume(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prebake.train.trainer.autocast", interrupted_at(3))
    with pytest.raises(KeyboardInterrupt, match=r"prebake train --resume .* resumes this run"):
        prebake.fit(shards / "digits", "resnet20", device="cpu", precision="fp32", out=tmp_path)
    assert list((the_run(tmp_path) / "checkpoint").iterdir())


def test_tied_weights_are_saved_and_loaded(shards: Path, tmp_path: Path) -> None:
    result = prebake.fit(shards / "digits", TIED, epochs=1, lr=0.01, device="cpu", precision="fp32", out=tmp_path)
    assert isinstance(result.model, nn.Sequential)
    assert result.model[2] is result.model[4]


def test_a_model_may_initialize_itself_from_images(shards: Path, tmp_path: Path) -> None:
    class Centred(nn.Linear):
        found: Tensor

        def initialize_from(self, images: Tensor) -> None:
            self.found = images

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.flatten(1))

    network = Centred(64, 10)
    prebake.fit(shards / "digits", network, epochs=1, lr=0.01, device="cpu", precision="fp32", out=tmp_path)
    assert (network.found.shape, network.found.dtype) == ((200, 1, 8, 8), torch.float32)
