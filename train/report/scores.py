"""Scores: predictions counted by class, and the worst of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.evaluate import Predictions

__all__ = ["ClassScore", "class_scores", "confident_mistakes", "confusion_matrix", "confusions"]


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


def confusion_matrix(predictions: Predictions) -> NDArray[np.int64]:
    """Return (classes, classes): how many images of the row's class were taken for the column's."""
    classes = predictions.logits_NK.shape[1]
    cells_N = predictions.labels_N * classes + predictions.logits_NK.argmax(1)
    counts: NDArray[np.int64] = np.bincount(cells_N.numpy(), minlength=classes**2).reshape(classes, classes)
    return counts


def class_scores(matrix: NDArray[np.int64]) -> list[ClassScore]:
    """Return the score of each class, by label."""
    images, said, right = matrix.sum(1), matrix.sum(0), matrix.diagonal()
    wrong = matrix - np.diag(right)
    worst = wrong.argmax(1)
    return [
        ClassScore(
            label,
            int(images[label]),
            float(right[label] / images[label]) if images[label] else None,
            float(right[label] / said[label]) if said[label] else None,
            (int(worst[label]), int(wrong[label, worst[label]])) if wrong[label].any() else None,
        )
        for label in range(len(matrix))
    ]


def confusions(matrix: NDArray[np.int64], most: int) -> list[tuple[int, int, int]]:
    """Return the most frequent confusions, at most so many: true label, label that was said, how often."""
    wrong = matrix - np.diag(matrix.diagonal())
    cells = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = (divmod(int(cell), len(matrix)) for cell in cells)
    return [(true, said, int(wrong[true, said])) for true, said in pairs if wrong[true, said]]


def confident_mistakes(predictions: Predictions, most: int) -> list[tuple[int, int, int, float]]:
    """Return the surest wrong answers, surest first: position, true label, label that was said, its probability."""
    confidence_N, said_N = predictions.logits_NK.softmax(1).max(1)
    wrong = (said_N != predictions.labels_N).nonzero()[:, 0]
    order = wrong[confidence_N[wrong].argsort(descending=True, stable=True)][:most]
    return [(at, int(predictions.labels_N[at]), int(said_N[at]), float(confidence_N[at])) for at in order.tolist()]
