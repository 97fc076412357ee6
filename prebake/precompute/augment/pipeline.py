"""Transforms: any callable that makes a view of an image, with all random generators seeded per sample.

torch is imported when a transform is used, since most bakes do not need it.
"""

import contextlib
import functools
import inspect
import pickle
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prebake.errors import UsageError
from prebake.precompute.augment.identity import identify
from prebake.user_code import import_object

__all__ = ["Pipeline", "Transform", "torchvision_transform", "user_transform"]


class Transform(Protocol):
    """A callable that takes one image and returns its view.

    A transform of torchvision, or another `torch.nn.Module`, gets a `tv_tensors.Image` (C, H, W) of uint8. A transform
    of albumentations is called with `image=`. Any other callable gets a uint8 array (H, W, C), and the keyword
    arguments `index` and `label` if it has parameters of these names.

    It returns a tensor (C, H, W) or (H, W), an array (H, W, C) or (H, W), or a PIL image, of uint8 or floats. All
    results must have one shape and one dtype. Before each call the generators of Python, NumPy and torch are seeded,
    and `set_random_seed` is called if the transform has it. The result must depend on nothing else.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # any signature
        """Return the view of an image."""


@dataclass(frozen=True)
class Pipeline:
    """A transform, and the way to make it again in another process.

    Attributes:
        factory: a function of a module, so that pickle can send it to another process.
        arguments: the factory returns the transform for these.
    """

    factory: Callable[..., Any]
    arguments: tuple[Any, ...] = ()

    @classmethod
    def of(cls, transform: Transform, argument: str = "transform") -> "Pipeline":
        """Return the pipeline of a transform that this process has; messages name the argument.

        Raises:
            UsageError: not callable, or a class.
        """
        return cls(_check_transform, (transform, argument))

    def __reduce__(self) -> tuple[Any, ...]:
        return Pipeline, (self.factory, self.arguments)  # without the cached transform

    @functools.cached_property
    def transform(self) -> Any:
        """The transform; raises UsageError."""
        return self.factory(*self.arguments)

    @functools.cached_property
    def identity(self) -> dict[str, str]:
        """What a manifest holds of the transform: `transform`, `source` and `library`, see `identify`."""
        return identify(self.transform)

    @property
    def name(self) -> str:
        """The transform for messages: the option or argument that it was given with, and the user's name of it."""
        if self.factory is _import_transform:
            module, _, name = self.arguments[0].rpartition(":")
            return f"{self.arguments[1]}: {Path(module).name}:{name}"
        option = self.arguments[1] if self.factory is _check_transform else "--augment"
        return f"{option}: {self.identity['transform']}"

    def is_picklable(self) -> bool:
        """Whether another process can load the transform: not if it was defined at a prompt or in a notebook."""
        try:
            data = pickle.dumps(self)
        except Exception:
            return False
        return hasattr(sys.modules["__main__"], "__file__") or b"__main__" not in data

    def apply(
        self, images_NHWC: NDArray[np.uint8], seeds_N: NDArray[np.uint64], columns: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[Any]]:
        """Return the view (H, W, C), uint8 or float, of each image.

        The generators of Python, NumPy and torch are left as they were.

        Args:
            images_NHWC: uint8; a transform may write to it.
            seeds_N: one seed per image.
            columns: other values (N, ...) of the samples; `index` is the source index.

        Raises:
            UsageError: the transform raised an exception, or did not return an image.
        """
        views = []
        with _generators_restored(), _one_torch_thread():
            for i, seed in enumerate(seeds_N.tolist()):
                _seed_generators(self.transform, seed)
                try:
                    view = self._call(images_NHWC[i], {name: column[i] for name, column in columns.items()})
                except Exception as error:
                    words = f"{type(error).__name__}: {error}"
                    raise UsageError(
                        f"{self.name} raised {words} for sample {columns['index'][i]} ({_place(error)})"
                    ) from error
                views.append(_as_array(view, f"{self.name}, sample {columns['index'][i]}"))
        return views

    @functools.cached_property
    def _call(self) -> Callable[[NDArray[np.uint8], Mapping[str, Any]], Any]:
        """The transform as a function of an image (H, W, C) and the sample's other columns."""
        import torch

        transform, package = self.transform, type(self.transform).__module__.partition(".")[0]
        if isinstance(transform, torch.nn.Module) or package == "torchvision":
            from torchvision import tv_tensors

            def call_torchvision(image_HWC: NDArray[np.uint8], _columns: Mapping[str, Any]) -> Any:
                return transform(tv_tensors.Image(torch.from_numpy(image_HWC).permute(2, 0, 1).contiguous()))

            return call_torchvision
        if package in ("albumentations", "albumentationsx"):
            return lambda image_HWC, _columns: transform(image=image_HWC)["image"]
        names = _parameters(transform)
        return lambda image_HWC, columns: transform(
            image_HWC, **{name: value for name, value in columns.items() if name in names}
        )


def torchvision_transform(name: str, **parameters: Any) -> Pipeline:
    """Return the pipeline of a class of `torchvision.transforms.v2` with these parameters."""
    return Pipeline(_make_torchvision, (name, tuple(parameters.items())))


def user_transform(reference: str, option: str) -> Pipeline:
    """Return the pipeline of a transform in a user's file or module, named `FILE.py:NAME` or `package.module:NAME`."""
    place, colon, name = reference.rpartition(":")
    if place.endswith(".py"):  # a worker may have another working directory
        reference = f"{Path(place).expanduser().absolute()}{colon}{name}"
    return Pipeline(_import_transform, (reference, option))


def _make_torchvision(name: str, parameters: Sequence[tuple[str, Any]]) -> Any:
    from torchvision.transforms import v2

    return getattr(v2, name)(**dict(parameters))


def _import_transform(reference: str, option: str) -> Any:
    return _check_transform(import_object(reference, option).value, option)


def _check_transform(transform: Any, option: str) -> Any:
    if isinstance(transform, type):
        raise UsageError(f"{option}: {transform.__name__} is a class; name an instance, such as {transform.__name__}()")
    if not callable(transform):
        raise UsageError(f"{option}: expected a callable that takes an image, found {transform!r}")
    return transform


def _parameters(transform: Any) -> list[str]:
    """Return the names of all parameters behind the first one."""
    try:
        return list(inspect.signature(transform).parameters)[1:]
    except (TypeError, ValueError):  # a built-in function without a signature
        return []


def _seed_generators(transform: Any, seed: int) -> None:
    import torch

    random.seed(seed)
    np.random.seed([seed >> 32, seed & 0xFFFFFFFF])  # noqa: NPY002 - what transforms draw from
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also initialize every GPU
    if hasattr(transform, "set_random_seed"):
        transform.set_random_seed(seed & 0xFFFFFFFF)


@contextlib.contextmanager
def _generators_restored() -> Iterator[None]:
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - as below
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - as below


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Use one thread per worker: an image is too small to share, and more threads would take the others' cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _as_array(view: Any, where: str) -> NDArray[Any]:
    """Return the result of a transform as an array (H, W, C)."""
    import torch

    if isinstance(view, torch.Tensor):
        array = view.detach().numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    else:
        array = np.asarray(view)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or not (array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating)):
        found = f"{array.dtype} {array.shape}" if array.dtype != object else type(view).__name__
        raise UsageError(f"{where}: expected an image (H, W, C) of uint8 or floats, found {found}")
    return array


def _place(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}"
