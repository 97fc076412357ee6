"""Scores of classes, from predictions that can be counted by hand."""

import numpy as np
import pytest
import torch

from prebake.train.evaluate import Predictions
from prebake.train.report.scores import ClassScore, Confusion, class_scores, confident_mistakes, confusions

LABELS = [0, 0, 0, 1, 1, 2]
SAID = [0, 1, 1, 1, 0, 1]
SURE = [0.9, 0.6, 0.8, 0.7, 0.95, 0.5]  # of what was said, among four classes


def predictions() -> Predictions:
    probabilities = torch.empty(6, 4)
    for row, (said, sure) in enumerate(zip(SAID, SURE, strict=True)):
        probabilities[row] = (1 - sure) / 3
        probabilities[row, said] = sure
    return Predictions("test", torch.tensor(LABELS), probabilities.log(), None)


def counted(matrix: list[list[int]]) -> Confusion:
    cells = np.array(matrix)
    true, said = cells.nonzero()
    return Confusion(len(cells), true, said, cells[true, said])


def test_a_confusion_matrix_counts_true_in_rows_and_said_in_columns() -> None:
    found = Confusion.of(predictions())
    assert found.matrix().tolist() == [[1, 2, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert len(found.images_M) == 5


def test_a_confusion_matrix_may_sum_up_several_classes_in_a_cell() -> None:
    found = Confusion.of(predictions())
    assert found.matrix(2).tolist() == [[5, 0], [1, 0]]
    assert found.matrix(3).tolist() == [[6, 0], [0, 0]]


def test_the_scores_of_classes_are_shares_of_rows_and_columns() -> None:
    assert class_scores(Confusion.of(predictions())) == [
        ClassScore(0, 3, 1 / 3, 1 / 2, (1, 2)),
        ClassScore(1, 2, 1 / 2, 1 / 4, (0, 1)),
        ClassScore(2, 1, 0.0, None, (1, 1)),
        ClassScore(3, 0, None, None, None),
    ]


def test_a_class_that_is_mostly_right_is_named_for_its_mistakes() -> None:
    first, second = class_scores(counted([[5, 2], [0, 3]]))
    assert (first.mistaken_for, second.mistaken_for) == ((1, 2), None)


def test_confusions_come_most_frequent_first_and_those_that_never_were_do_not() -> None:
    assert confusions(Confusion.of(predictions()), 10) == [(0, 1, 2), (1, 0, 1), (2, 1, 1)]
    assert confusions(Confusion.of(predictions()), 1) == [(0, 1, 2)]
    assert confusions(counted([[3, 0], [0, 4]]), 10) == []


def test_of_mistakes_that_are_as_frequent_the_first_classes_come_first() -> None:
    found = counted([[1, 2, 2], [3, 0, 2], [2, 3, 9]])
    assert confusions(found, 4) == [(1, 0, 3), (2, 1, 3), (0, 1, 2), (0, 2, 2)]
    assert [score.mistaken_for for score in class_scores(found)] == [(1, 2), (0, 3), (1, 3)]


def test_the_surest_mistakes_come_first() -> None:
    found = confident_mistakes(predictions(), 3)
    assert [(position, true, said) for position, true, said, _ in found] == [(4, 1, 0), (2, 0, 1), (1, 0, 1)]
    assert [sure for *_, sure in found] == pytest.approx([0.95, 0.8, 0.6])
    assert len(confident_mistakes(predictions(), 10)) == 4
