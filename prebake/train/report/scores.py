"""Scores: predictions counted by class, and the worst of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prebake.train.evaluate import Predictions

__all__ = ["ClassScore", "Confusion", "class_scores", "confident_mistakes", "confusions"]


@dataclass(frozen=True)
class Confusion:
    """How many images of which class were taken for which: the cells of a matrix that are not zero, row by row.

    They are no more than the images; the matrix takes the square of the classes.

    Attributes:
        classes: how many there are.
        true_M: the class that the images of each cell are of, int64.
        said_M: the class that they were taken for, likewise.
        images_M: how many they are, likewise.
    """

    classes: int
    true_M: NDArray[np.int64]
    said_M: NDArray[np.int64]
    images_M: NDArray[np.int64]

    @classmethod
    def of(cls, predictions: Predictions) -> "Confusion":
        """Count predictions."""
        classes = predictions.logits_NK.shape[1]
        cells_N = predictions.labels_N * classes + predictions.logits_NK.argmax(1)
        cells_M, images_M = np.unique(cells_N.numpy(), return_counts=True)
        return cls(classes, cells_M // classes, cells_M % classes, images_M)

    def matrix(self, each: int = 1) -> NDArray[np.int64]:
        """Return the matrix, true classes in rows, of which a cell sums up `each` classes by `each`."""
        side = -(-self.classes // each)
        matrix = np.zeros((side, side), np.int64)
        np.add.at(matrix, (self.true_M // each, self.said_M // each), self.images_M)
        return matrix

    def wrong(self) -> "Confusion":
        """Return the mistakes alone, those of each class together, its most frequent ones first."""
        cells = (self.true_M != self.said_M).nonzero()[0]
        cells = cells[np.lexsort((-self.images_M[cells], self.true_M[cells]))]
        return Confusion(self.classes, self.true_M[cells], self.said_M[cells], self.images_M[cells])


@dataclass(frozen=True)
class ClassScore:
    """How one class fared.

    Attributes:
        label: of the class.
        images: how many there are of it.
        recall: share of them that was recognized; None where there are none.
        precision: share of the images said to be of it that are; None where no image is.
        mistaken_for: the class that its images were taken for most often, and how many; None without mistakes.
    """

    label: int
    images: int
    recall: float | None
    precision: float | None
    mistaken_for: tuple[int, int] | None


def class_scores(confusion: Confusion) -> list[ClassScore]:
    """Return the score of each class, by label."""
    images, said, correct = np.zeros((3, confusion.classes), np.int64)
    np.add.at(images, confusion.true_M, confusion.images_M)
    np.add.at(said, confusion.said_M, confusion.images_M)
    hits = confusion.true_M == confusion.said_M
    correct[confusion.true_M[hits]] = confusion.images_M[hits]
    wrong = confusion.wrong()
    mistaken, first = np.unique(wrong.true_M, return_index=True)
    worst = {
        true: (int(wrong.said_M[at]), int(wrong.images_M[at]))
        for true, at in zip(mistaken.tolist(), first.tolist(), strict=True)
    }
    return [
        ClassScore(
            label,
            int(images[label]),
            float(correct[label] / images[label]) if images[label] else None,
            float(correct[label] / said[label]) if said[label] else None,
            worst.get(label),
        )
        for label in range(confusion.classes)
    ]


def confusions(confusion: Confusion, most: int) -> list[tuple[int, int, int]]:
    """Return the most frequent confusions, at most so many: true label, label that was said, how often."""
    wrong = confusion.wrong()
    cells = np.argsort(-wrong.images_M, kind="stable")[:most]
    return [(int(wrong.true_M[cell]), int(wrong.said_M[cell]), int(wrong.images_M[cell])) for cell in cells]


def confident_mistakes(predictions: Predictions, most: int) -> list[tuple[int, int, int, float]]:
    """Return the surest wrong answers, surest first: position, true label, label that was said, its probability."""
    confidence_N, said_N = predictions.logits_NK.softmax(1).max(1)
    wrong = (said_N != predictions.labels_N).nonzero()[:, 0]
    order = wrong[confidence_N[wrong].argsort(descending=True, stable=True)][:most]
    return [(at, int(predictions.labels_N[at]), int(said_N[at]), float(confidence_N[at])) for at in order.tolist()]
