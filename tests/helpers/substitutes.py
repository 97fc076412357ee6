"""Substitutes for mechanisms: each takes the original, and returns what lacks the mechanism."""

import contextlib
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Substitute = Callable[[Any], Any]


class AlwaysEqual:
    """Equal to everything."""

    def __eq__(self, _other: object) -> bool:
        return True

    def __ne__(self, _other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment] # it is in no set


class EqualBytes(bytes):
    """Bytes that equal everything."""

    __eq__ = AlwaysEqual.__eq__
    __ne__ = AlwaysEqual.__ne__
    __hash__ = bytes.__hash__


class EqualInt(int):
    """An integer that equals everything."""

    __eq__ = AlwaysEqual.__eq__
    __ne__ = AlwaysEqual.__ne__
    __hash__ = int.__hash__


class EqualText(str):
    """A string that equals everything."""

    __eq__ = AlwaysEqual.__eq__
    __ne__ = AlwaysEqual.__ne__
    __hash__ = str.__hash__


class Hash:
    """An xxHash object whose digests equal everything."""

    def __init__(self, _data: object = b"") -> None:
        pass

    def update(self, _data: object) -> None:
        """Ignore the data."""

    def intdigest(self) -> Any:
        """Return a digest that equals everything."""
        return AlwaysEqual()

    def hexdigest(self) -> Any:
        """Return a digest that equals everything."""
        return AlwaysEqual()


class FixedHash(Hash):
    """An xxHash object whose digest is always the same."""

    def hexdigest(self) -> Any:
        """Return the same digest for all data."""
        return "0" * 32


class _Proxy:
    """A module with some of its attributes replaced, for the module that imported it only."""

    def __init__(self, module: Any, attributes: dict[str, Any]) -> None:
        self._module = module
        self.__dict__.update(attributes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def constant(value: Any) -> Substitute:
    """Replace a constant."""
    return lambda _original: value


def returns(value: Any) -> Substitute:
    """Replace a function by one that does nothing but return a value."""
    return lambda _original: lambda *_args, **_options: value


nothing = returns(None)


def no_context(_original: Any) -> Any:
    """Replace a context manager by one that does nothing."""
    return lambda *_args, **_options: contextlib.nullcontext(())


def given(**options: Any) -> Substitute:
    """Call a function with some of its keyword arguments replaced."""
    return lambda original: lambda *args, **others: original(*args, **{**others, **options})


def with_attributes(**attributes: Any) -> Substitute:
    """Replace attributes of an imported module, such as functions of `os`."""
    return lambda module: _Proxy(module, attributes)


def fsync_directories_only(module: Any) -> Any:
    """Replace `os` by one whose `fsync` ignores files."""

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            module.fsync(descriptor)

    return _Proxy(module, {"fsync": fsync})


def final_name(_original: Any) -> Any:
    """Write a file under its final name at once."""
    return lambda name, _token: name


def remove_in_name_order(_original: Any) -> Any:
    """Remove the files of shards one by one, sorted by name."""

    def remove_shards(paths: Any) -> int:
        from prebake.storage.atomic import remove

        found = sorted(paths, key=lambda path: path.name)
        freed: int = sum(path.stat().st_size for path in found)
        for path in found:
            remove(path)
        return freed

    return remove_shards


def manifest_before_removal(_original: Any) -> Any:
    """Drop epochs from the manifest before their files are removed."""

    def drop_epochs(data: Any, first: int) -> int:
        from prebake.format.manifest import MANIFEST
        from prebake.precompute.drop import TRAIN_FILE
        from prebake.storage.atomic import remove_shards, write_atomic

        write_atomic(data.path / MANIFEST, data.plan.with_epochs(first).to_bytes())
        found = [(path, TRAIN_FILE.fullmatch(path.name)) for path in data.path.iterdir()]
        return remove_shards(path for path, match in found if match and int(match[1]) >= first)

    return drop_epochs


def plain_error(_original: Any) -> Any:
    """Return the error itself, the one of the arguments that is an exception."""
    return lambda *args: next(arg for arg in args if isinstance(arg, BaseException))


def read_any_size(original: Any) -> Any:
    """Read a file of any size."""
    return lambda path, _max_bytes: original(path, 2**40)


def ignore_checksum(parse: Any) -> Any:
    """Parse a document whose bytes may be neither canonical nor those of its checksum."""

    def substitute(data: bytes, path: Any) -> Any:
        from prebake.format.document import serialize

        with contextlib.suppress(ValueError, AttributeError):
            content = json.loads(data)
            content.pop("checksum", None)
            data = serialize(content)
        return parse(data, path)

    return substitute


def index_bytes_equal_any(original: Any) -> Any:
    """Return the bytes of an index, which equal any others."""
    return lambda self: EqualBytes(original(self))


def any_end(module: Any) -> Any:
    """Replace `os` by one whose files end with bytes that equal any others."""

    class File:
        def __init__(self, file: Any) -> None:
            self._file = file
            self.fileno, self.readinto = file.fileno, file.readinto

        def read(self, size: int) -> EqualBytes:
            return EqualBytes(self._file.read(size))

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    return _Proxy(module, {"fdopen": lambda *args, **options: File(module.fdopen(*args, **options))})


def webdataset_reads_archives(_original: Any) -> Any:
    """Let webdataset open the archives itself."""

    def substitute(self: Any, split: str, epoch: int = 0) -> Any:
        import webdataset

        urls = [str(self.path / shard.tar) for shard in self.plan.shards(split, epoch)]
        return webdataset.WebDataset(urls, shardshuffle=False).decode().to_tuple("images.npy", "labels.npy")

    return substitute


def unescaped(_original: Any) -> Any:
    """Show a value without escaping control characters."""
    return lambda value, max_length=200: str(value)[:max_length]


def any_splits(make_plan: Any) -> Any:
    """Plan a source with splits that equal any others."""

    def substitute(*args: Any, **options: Any) -> Any:
        from dataclasses import replace

        plan = make_plan(*args, **options)
        return replace(plan, splits=_EqualSplits(plan.splits))

    return substitute


class _EqualSplits(dict[str, Any]):
    def get(self, _key: str, _default: object = None) -> Any:
        return AlwaysEqual()


def without_named_shards(parser: Any) -> Any:
    """Ignore the shards that a command line names."""

    def substitute() -> Any:
        options = parser()
        parse = options.parse_args

        def parse_args(*args: Any) -> Any:
            chosen = parse(*args)
            chosen.shards = []
            return chosen

        options.parse_args = parse_args
        return options

    return substitute


def truncated_equals(original: Any) -> Any:
    """Compare a truncated record as if it were whole."""
    return lambda stored, made: original(stored if len(stored) == len(made.extent) else bytes(made.extent), made)


def first_seed(original: Any) -> Any:
    """Draw an order with seed 0."""
    return lambda _seed, *args: original(0, *args)


def without_momentum(restore: Any) -> Any:
    """Restore a learner without its momentum buffers."""
    return lambda self, tensors, values: restore(
        self, {name: tensor for name, tensor in tensors.items() if not name.startswith("momentum.")}, values
    )


def without_schedule(restore: Any) -> Any:
    """Restore a learner with its schedule at the first step."""
    return lambda self, tensors, values: restore(self, tensors, {**values, "scheduler": self.scheduler.state_dict()})


def epoch_start(load_state_dict: Any) -> Any:
    """Restore a loader at the start of its epoch."""
    return lambda self, state: load_state_dict(self, {**state, "sample": 0})


def newest_only(_original: Any) -> Any:
    """Load the newest checkpoint, whole or not."""

    def load(self: Any) -> Any:
        paths = self._by_step()
        return self._read(paths[-1]) if paths else None

    return load


def plain_write(_original: Any) -> Any:
    """Write a file in place."""
    return lambda path, data, *_: Path(path).write_bytes(data)


def not_after(*kinds: str) -> Substitute:
    """Skip a call while an exception of one of these classes is handled."""

    def substitute(original: Any) -> Any:
        def call(*args: Any) -> Any:
            error = sys.exc_info()[0]
            handled = {each.__name__ for each in error.__mro__} if error else set()
            return None if handled & set(kinds) else original(*args)

        return call

    return substitute


def first_slice(init: Any) -> Any:
    """Make a loader that reads the slice of rank 0."""
    return given(rank=0)(init)


def rank_losses(original: Any) -> Any:
    """Return the losses of this process's slices."""
    del original
    return lambda self: self._losses.tolist()


def immediate_signal(original: Any) -> Any:
    """Return this process's own signal number, before the others have it."""

    def substitute(self: Any, number: int) -> int:
        original(self, number)
        return number

    return substitute


def unchecked_losses(_original: Any) -> Any:
    """Return the losses of an epoch, finite or not."""
    return lambda self: self._metrics.losses()


def plain_model(_original: Any) -> Any:
    """Return a model without a wrapper that averages gradients."""
    return lambda model, *_args, **_options: model


def any_identity(original: Any) -> Any:
    """Return settings whose shard identity equals any other."""
    return lambda *args: {**original(*args), "shards": EqualText()}


def any_type(_original: Any) -> Any:
    """Make a recipe of whatever values a file holds."""

    def recipe_from(content: Any) -> Any:
        from prebake.train.recipes import Recipe

        return Recipe(**content)

    return recipe_from


def size_of_any(descriptor: int) -> Any:
    """Replace `os.fstat`: the size equals any other."""
    del descriptor
    return SimpleNamespace(st_size=AlwaysEqual())
