"""The data set that a shard set was baked from, as its manifest describes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prebake.format.document import Fields

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """A data set, and the facts about it that training needs.

    Attributes:
        name: of the data set.
        classes: names of the classes; label i is classes[i].
        mean: of each channel over the training split, with pixels as 0 to 1.
        std: population standard deviation, likewise.
        sha256: hash of each split's pixels and labels; it tells changed data apart.
        recipe: the training recipe to suggest, as plain text.
    """

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: Mapping[str, str]
    recipe: str

    @classmethod
    def from_fields(cls, fields: Fields) -> "Source":
        """Take a source from a manifest; raises DataError."""
        sums = fields.fields("sha256")
        return cls(
            name=fields.text("name"),
            classes=fields.texts("classes"),
            mean=fields.numbers("mean"),
            std=fields.numbers("std"),
            sha256={split: sums.text(split) for split in sums.content},
            recipe=fields.text("recipe"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the source as a manifest holds it."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "mean": list(self.mean),
            "std": list(self.std),
            "sha256": dict(self.sha256),
            "recipe": self.recipe,
        }
