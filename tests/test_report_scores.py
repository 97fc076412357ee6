"""Scores of classes for predictions that are counted by hand."""

import numpy as np
import pytest
import torch

from prebake.train.evaluate import Predictions
from prebake.train.report.scores import ClassScore, Confusion, class_scores, confident_mistakes, confusions

LABELS = [0, 0, 0, 1, 1, 2]
PREDICTED = [0, 1, 1, 1, 0, 1]
CONFIDENCE = [0.9, 0.6, 0.8, 0.7, 0.95, 0.5]  # of what was predicted, among four classes


def predictions() -> Predictions:
    probabilities = torch.empty(6, 4)
    for row, (predicted, confidence) in enumerate(zip(PREDICTED, CONFIDENCE, strict=True)):
        probabilities[row] = (1 - confidence) / 3
        probabilities[row, predicted] = confidence
    return Predictions("test", torch.tensor(LABELS), probabilities.log(), None)


def counted(matrix: list[list[int]]) -> Confusion:
    cells = np.array(matrix)
    true, predicted = cells.nonzero()
    return Confusion(len(cells), true, predicted, cells[true, predicted])


def test_confusion_matrix_has_true_rows_predicted_columns() -> None:
    found = Confusion.of(predictions())
    assert found.matrix().tolist() == [[1, 2, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert len(found.images_M) == 5


def test_confusion_matrix_can_merge_classes() -> None:
    found = Confusion.of(predictions())
    assert found.matrix(2).tolist() == [[5, 0], [1, 0]]
    assert found.matrix(3).tolist() == [[6, 0], [0, 0]]


def test_class_scores_are_shares_of_rows_and_columns() -> None:
    assert class_scores(Confusion.of(predictions())) == [
        ClassScore(0, 3, 1 / 3, 1 / 2, (1, 2)),
        ClassScore(1, 2, 1 / 2, 1 / 4, (0, 1)),
        ClassScore(2, 1, 0.0, None, (1, 1)),
        ClassScore(3, 0, None, None, None),
    ]


def test_most_frequent_mistake_of_a_class_is_named() -> None:
    first, second = class_scores(counted([[5, 2], [0, 3]]))
    assert (first.mistaken_for, second.mistaken_for) == ((1, 2), None)


def test_confusions_are_sorted_by_frequency() -> None:
    assert confusions(Confusion.of(predictions()), 10) == [(0, 1, 2), (1, 0, 1), (2, 1, 1)]
    assert confusions(Confusion.of(predictions()), 1) == [(0, 1, 2)]
    assert confusions(counted([[3, 0], [0, 4]]), 10) == []


def test_equally_frequent_confusions_are_sorted_by_class() -> None:
    found = counted([[1, 2, 2], [3, 0, 2], [2, 3, 9]])
    assert confusions(found, 4) == [(1, 0, 3), (2, 1, 3), (0, 1, 2), (0, 2, 2)]
    assert [score.mistaken_for for score in class_scores(found)] == [(1, 2), (0, 3), (1, 3)]


def test_most_confident_mistakes_come_first() -> None:
    found = confident_mistakes(predictions(), 3)
    assert [(position, true, predicted) for position, true, predicted, _ in found] == [(4, 1, 0), (2, 0, 1), (1, 0, 1)]
    assert [confidence for *_, confidence in found] == pytest.approx([0.95, 0.8, 0.6])
    assert len(confident_mistakes(predictions(), 10)) == 4
