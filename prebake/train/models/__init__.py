"""Models: those of this package, timm's classifiers, and a user's own.

A file of this package is a model. The file's name, with hyphens for underscores, is the model's name, and its `MODEL`
says how to build it. A file is imported when its model is used: some take a second.
"""

import contextlib
import difflib
import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from prebake.errors import UsageError
from prebake.optional import import_optional
from prebake.user_code import import_object, names_object

__all__ = ["BATCH_NORMS", "MODELS", "AnyModel", "Model", "find_model", "is_users_own"]

AnyModel = str | nn.Module | Callable[..., nn.Module]

MODELS = tuple(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
TIMM = "timm:"
SMALL_SIDE = 64  # pixels: below it, a stem that reduces images to a quarter leaves little


@dataclass(frozen=True)
class Model:
    """A way to build a network.

    `builder` is any callable that returns an `nn.Module`, such as its class. It is passed what its parameters ask for
    by name: `channels` (or `in_channels`, `in_chans`), `classes` (or `num_classes`) and `image_size` (or `img_size`),
    a pair of height and width. Its other parameters with a default of a plain value are options that `--set` changes.

    A network takes images (N, channels, H, W) and returns logits (N, classes). It may have a method
    `initialize_from(images)`: before the first step it is passed a thousand training images, float32 on the CPU.

    Attributes:
        builder: returns the network.
        smallest_side: the smallest height and width of images, in pixels.
        name: how commands and run directories name the model.
        source_sha256: of a user's own code, where it can be told; of a network also of its layers and weights.
        checked: whether the network is known to return logits (N, classes) for all images of `smallest_side` and more.
    """

    builder: Callable[..., nn.Module]
    smallest_side: int = 1
    name: str = ""
    source_sha256: str | None = None
    checked: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """The builder's own parameters that have a plain default, and those defaults."""
        return {
            name: parameter.default
            for name, parameter in _parameters(self.builder).items()
            if name not in _arguments(0, 0, (0, 0))
            and isinstance(parameter.default, bool | int | float | str | type(None))
        }

    def build(
        self, channels: int, classes: int, image_size: tuple[int, int], options: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Build the network.

        Args:
            channels: of the images.
            classes: how many.
            image_size: height and width of the images that the trained network is used with.
            options: changes to `self.options`.

        Raises:
            UsageError: a parameter without a value, or an option outside its range.
        """
        offered = _arguments(channels, classes, image_size)
        parameters = _parameters(self.builder)
        arguments = {name: offered[name] for name in parameters if name in offered} | dict(options or {})
        kinds = {parameter.kind for parameter in parameters.values()}
        if inspect.Parameter.VAR_KEYWORD in kinds and not {"classes", "num_classes"} & set(parameters):
            arguments["num_classes"] = classes  # as torchvision's builders hand it on
        for name, parameter in parameters.items():
            variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            if not variadic and parameter.default is parameter.empty and name not in arguments:
                raise UsageError(
                    f"--model: {self.name}: its parameter {name!r} needs a default; prebake passes channels, classes "
                    "and image_size to parameters of these names, and no others. Or name a function that passes it "
                    "and returns the network"
                )
        try:
            network = self.builder(**arguments)
        except ValueError as error:
            option = "--set" if self.checked else "--model"  # ours check their options, others may check anything
            raise UsageError(f"{option}: {self.name}: {error}") from error
        if not isinstance(network, nn.Module):
            raise UsageError(f"--model: {self.name} returned {type(network).__name__}, expected a torch.nn.Module")
        return network

    def check(
        self, channels: int, classes: int, shapes: Sequence[tuple[int, int]], options: Mapping[str, Any]
    ) -> nn.Module:
        """Build the network once without training it, and raise UsageError where it does not fit the images.

        Args:
            channels: of the images.
            classes: how many.
            shapes: heights and widths of all images, the last being those of `image_size`.
            options: as for `build`.

        Returns:
            The network, on the meta device where it is one of this package.
        """
        least = min(min(shape) for shape in shapes)
        if least < self.smallest_side:
            side = self.smallest_side
            raise UsageError(f"--model: {self.name} needs images of at least {side}x{side}, found a side of {least}")
        random = torch.random.fork_rng(devices=[])
        with random, torch.device("meta") if self.checked else contextlib.nullcontext():
            network = self.build(channels, classes, shapes[-1], options)
            for shape in () if self.checked else dict.fromkeys(shapes):
                self._check_output(network, (2, channels, *shape), classes)
        return network

    @torch.no_grad()
    def _check_output(self, network: nn.Module, shape: tuple[int, ...], classes: int) -> None:
        device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        training = network.training
        try:
            logits = network.eval()(torch.zeros(shape, device=device))
        except (AssertionError, RuntimeError, ValueError) as error:  # what layers and timm raise over other shapes
            reason = " ".join(str(error).split())[:300]
            raise UsageError(f"--model: {self.name} does not take images of shape {shape}: {reason}") from error
        finally:
            network.train(training)
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if found != (shape[0], classes):
            raise UsageError(
                f"--model: {self.name} must return logits of shape {(shape[0], classes)} for images of shape {shape}, "
                f"found {found}"
            )

    def hint(self, image_size: tuple[int, int]) -> str | None:
        """Return advice on using this model with images of this height and width, if there is any."""
        if not self.name.startswith(TIMM) or min(image_size) >= SMALL_SIDE:
            return None
        height, width = image_size
        return (
            f"{self.name}: most of timm's models are made for images of about 224x224. Their stem reduces "
            f"{height}x{width} to {-(-height // 4)}x{-(-width // 4)} or less before the first block; a model for small "
            "images, such as resnet20 or wrn22, may be more accurate"
        )


def find_model(wanted: AnyModel) -> Model:
    """Return the model of a name, such as `davidnet`, `timm:resnet18`, `FILE.py:Net`, `package.module:Net`.

    Args:
        wanted: a name, or from Python a network or a builder as `Model.builder` describes it.

    Raises:
        UsageError: no such model.
        MachineError: timm is not installed.
    """
    if isinstance(wanted, nn.Module):
        return Model(lambda: wanted, name=_named(type(wanted)), source_sha256=_network_sha256(wanted), checked=False)
    if not isinstance(wanted, str):
        return Model(wanted, name=_named(wanted), source_sha256=_source_sha256(wanted), checked=False)
    if wanted in MODELS:
        model: Model = importlib.import_module(f"{__name__}.{wanted.replace('-', '_')}").MODEL
        return replace(model, name=wanted)
    if wanted.startswith(TIMM):
        return _timm_model(wanted.removeprefix(TIMM))
    if not names_object(wanted):
        raise UsageError(
            f"--model: no model named {wanted!r}; there are {', '.join(MODELS)}, timm:NAME, FILE.py:NAME and "
            "package.module:NAME"
        )
    own = import_object(wanted, "--model")
    if not callable(own.value):
        raise UsageError(f"--model: {wanted} is no class or function that builds a network")
    return Model(own.value, name=wanted, source_sha256=own.source_sha256, checked=False)


def is_users_own(name: str) -> bool:
    """Whether a model of this name is built by a user's own code."""
    return ":" in name and not name.startswith(TIMM)


def _timm_model(name: str) -> Model:
    timm = import_optional("timm", "timm", "--model timm:NAME")
    # timm would load other names from the internet.
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        advice = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists them"
        raise UsageError(f"--model: timm has no model named {name!r}; {advice}")

    def build(channels: int, classes: int, image_size: tuple[int, int]) -> nn.Module:
        arguments: dict[str, Any] = {"in_chans": channels, "num_classes": classes}
        try:
            network: nn.Module = timm.create_model(name, **arguments, img_size=image_size)
        except TypeError:  # this one takes images of any size
            network = timm.create_model(name, **arguments)
        return network

    return Model(build, name=TIMM + name, checked=False)


def _arguments(channels: int, classes: int, image_size: tuple[int, int]) -> dict[str, Any]:
    return {
        **dict.fromkeys(("channels", "in_channels", "in_chans"), channels),
        **dict.fromkeys(("classes", "num_classes"), classes),
        **dict.fromkeys(("image_size", "img_size"), image_size),
    }


def _parameters(builder: Callable[..., nn.Module]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(builder).parameters


def _named(builder: Callable[..., Any]) -> str:
    return f"{builder.__module__}:{getattr(builder, '__qualname__', type(builder).__qualname__)}"


def _source_sha256(builder: Callable[..., nn.Module]) -> str | None:
    try:
        return hashlib.sha256(inspect.getsource(builder).encode()).hexdigest()
    except (OSError, TypeError):  # typed into a shell, or no function
        return None


def _network_sha256(network: nn.Module) -> str:
    """Return the SHA-256 of a network's class, layers and weights, all of which its training depends on."""
    digest = hashlib.sha256(f"{_source_sha256(type(network))} {network!r}".encode())
    for name, value in network.state_dict().items():
        if isinstance(value, Tensor) and not is_lazy(value):  # a lazy one has no values yet
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
