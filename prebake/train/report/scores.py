"""Confusion matrix, scores of each class, and the most confident mistakes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prebake.train.evaluate import Predictions

__all__ = ["ClassScore", "Confusion", "class_scores", "confident_mistakes", "confusions"]


@dataclass(frozen=True)
class Confusion:
    """A sparse confusion matrix: its non-zero cells, row by row.

    There are at most as many cells as images, while the dense matrix grows with the square of the classes.

    Attributes:
        classes: number of classes.
        true_M: true class of each cell, int64.
        predicted_M: predicted class of each cell, int64.
        images_M: number of images in each cell, int64.
    """

    classes: int
    true_M: NDArray[np.int64]
    predicted_M: NDArray[np.int64]
    images_M: NDArray[np.int64]

    @classmethod
    def of(cls, predictions: Predictions) -> "Confusion":
        """Count the pairs of true and predicted class."""
        classes = predictions.logits_NK.shape[1]
        cells_N = predictions.labels_N * classes + predictions.logits_NK.argmax(1)
        cells_M, images_M = np.unique(cells_N.numpy(), return_counts=True)
        return cls(classes, cells_M // classes, cells_M % classes, images_M)

    def matrix(self, each: int = 1) -> NDArray[np.int64]:
        """Return the dense matrix, with true classes in rows; a cell sums up `each` x `each` classes."""
        side = -(-self.classes // each)
        matrix = np.zeros((side, side), np.int64)
        np.add.at(matrix, (self.true_M // each, self.predicted_M // each), self.images_M)
        return matrix

    def mistakes(self) -> "Confusion":
        """Return the cells off the diagonal, sorted by true class, then by frequency."""
        cells = (self.true_M != self.predicted_M).nonzero()[0]
        cells = cells[np.lexsort((-self.images_M[cells], self.true_M[cells]))]
        return Confusion(self.classes, self.true_M[cells], self.predicted_M[cells], self.images_M[cells])


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class.

    Attributes:
        label: label of the class.
        images: number of its images.
        recall: fraction of its images that were recognized; None without images.
        precision: fraction of the images predicted as this class that belong to it; None without predictions.
        mistaken_for: the class most often predicted instead, and the number of such images; None without mistakes.
    """

    label: int
    images: int
    recall: float | None
    precision: float | None
    mistaken_for: tuple[int, int] | None


def class_scores(confusion: Confusion) -> list[ClassScore]:
    """Return the scores of all classes, sorted by label."""
    images, predicted, correct = np.zeros((3, confusion.classes), np.int64)
    np.add.at(images, confusion.true_M, confusion.images_M)
    np.add.at(predicted, confusion.predicted_M, confusion.images_M)
    hits = confusion.true_M == confusion.predicted_M
    correct[confusion.true_M[hits]] = confusion.images_M[hits]
    mistakes = confusion.mistakes()
    mistaken, first = np.unique(mistakes.true_M, return_index=True)
    worst = {
        true: (int(mistakes.predicted_M[at]), int(mistakes.images_M[at]))
        for true, at in zip(mistaken.tolist(), first.tolist(), strict=True)
    }
    return [
        ClassScore(
            label,
            int(images[label]),
            float(correct[label] / images[label]) if images[label] else None,
            float(correct[label] / predicted[label]) if predicted[label] else None,
            worst.get(label),
        )
        for label in range(confusion.classes)
    ]


def confusions(confusion: Confusion, limit: int) -> list[tuple[int, int, int]]:
    """Return the most frequent confusions: true label, predicted label, number of images."""
    found = confusion.mistakes()
    cells = np.argsort(-found.images_M, kind="stable")[:limit]
    return [(int(found.true_M[cell]), int(found.predicted_M[cell]), int(found.images_M[cell])) for cell in cells]


def confident_mistakes(predictions: Predictions, limit: int) -> list[tuple[int, int, int, float]]:
    """Return the most confident mistakes: position, true label, predicted label, its probability."""
    confidence_N, predicted_N = predictions.logits_NK.softmax(1).max(1)
    wrong = (predicted_N != predictions.labels_N).nonzero()[:, 0]
    order = wrong[confidence_N[wrong].argsort(descending=True, stable=True)][:limit]
    return [(at, int(predictions.labels_N[at]), int(predicted_N[at]), float(confidence_N[at])) for at in order.tolist()]
