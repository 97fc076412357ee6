"""python -m benchmarks.scaling: what sets of many sizes come to, in bytes, shards, rates and hours (docs/scaling.md).

Arithmetic on the format, nothing measured. With --write they take the place of what stands between the page's markers.
"""

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prebake.format.manifest import Epoch, Plan, Source

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
BEGIN, END = "<!-- python -m benchmarks.scaling --write -->\n", "<!-- end -->\n"
RATES = (1_000, 10_000, 100_000)  # images/s that one device trains on
WRITES = (0.5, 2.0, 10.0)  # GB/s that are written while baking
LINKS = (  # GB/s that are read
    ("a hard disk", 0.2),
    ("a SATA SSD, or a network of 5 Gbit/s", 0.55),
    ("an NVMe SSD, or a network of 50 Gbit/s", 6.0),
    ("four NVMe SSDs, or a network of 200 Gbit/s", 24.0),
)


@dataclass(frozen=True)
class Set:
    """A shard set to be: so many square images, so many views of each."""

    name: str
    images: int
    side: int
    channels: int
    dtype: str
    epochs: int

    def plan(self) -> Plan:
        """Return the plan that a bake would write, with made-up names."""
        shape = self.side, self.side, self.channels
        ones = (1.0,) * self.channels
        source = Source("scaling", ("a", "b"), ones, ones, {"train": ""}, "default")
        splits = {"train": (Epoch(self.images, shape),) * self.epochs}
        return Plan(source, {}, self.dtype, 0, splits)

    @functools.cached_property
    def sizes(self) -> list[int]:
        """Bytes of each archive."""
        return [shard.size_bytes for shard in self.plan().shards()]

    @property
    def size_bytes(self) -> int:
        """Bytes of all archives."""
        return sum(self.sizes)

    @property
    def image_bytes(self) -> float:
        """Bytes that one view takes, framing and labels included."""
        return self.size_bytes / self.images / self.epochs


SETS = (
    Set("MNIST", 60_000, 28, 1, "float16", 25),
    Set("CIFAR-10", 50_000, 32, 3, "float16", 25),
    Set("CIFAR-10", 50_000, 32, 3, "uint8", 25),
    Set("CIFAR-10", 50_000, 32, 3, "uint8", 200),
    Set("100,000 of 64x64", 100_000, 64, 3, "uint8", 25),
    Set("ImageNet, 64x64", 1_281_167, 64, 3, "uint8", 8),
    Set("ImageNet, 224x224", 1_281_167, 224, 3, "uint8", 8),
    Set("ImageNet, 224x224", 1_281_167, 224, 3, "uint8", 40),
)


def tables() -> str:
    """Return both tables as Markdown."""
    return _rows(
        ["set", "views of each image", "stored as", "bytes an image", "in all", "shards"]
        + [f"{rate:,} images/s" for rate in RATES]
        + [f"baked at {write:g} GB/s" for write in WRITES],
        [
            [
                one.name,
                str(one.epochs),
                one.dtype,
                f"{one.image_bytes:,.0f}",
                _bytes(one.size_bytes),
                f"{len(one.sizes):,}",
                *(f"{_bytes(rate * one.image_bytes)}/s" for rate in RATES),
                *(_time(one.size_bytes / write / 1e9) for write in WRITES),
            ]
            for one in SETS
        ],
    ) + _rows(
        ["read from", "GB/s", *(f"images/s of {side}x{side}x3, uint8" for side in (32, 64, 224))],
        [
            [name, f"{link:g}", *(f"{link * 1e9 / one.image_bytes:,.0f}" for one in (SETS[2], SETS[4], SETS[6]))]
            for name, link in LINKS
        ],
    )


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"


def _bytes(count: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e6:.3g} MB"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def main() -> None:
    """Print the tables, or put them into the page."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    options.add_argument("--write", action="store_true", help="replace the tables in docs/scaling.md")
    if options.parse_args().write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(before + BEGIN + tables() + END + after)
    else:
        print(tables(), end="")


if __name__ == "__main__":
    main()
