"""Scores of classes, from predictions that can be counted by hand."""

import numpy as np
import pytest
import torch

from train.evaluate import Predictions
from train.report.scores import ClassScore, class_scores, confident_mistakes, confusion_matrix, confusions

LABELS = [0, 0, 0, 1, 1, 2]
SAID = [0, 1, 1, 1, 0, 1]
SURE = [0.9, 0.6, 0.8, 0.7, 0.95, 0.5]  # of what was said, among four classes


def predictions() -> Predictions:
    probabilities = torch.empty(6, 4)
    for row, (said, sure) in enumerate(zip(SAID, SURE, strict=True)):
        probabilities[row] = (1 - sure) / 3
        probabilities[row, said] = sure
    return Predictions("test", torch.tensor(LABELS), probabilities.log(), None)


def test_a_confusion_matrix_counts_true_in_rows_and_said_in_columns() -> None:
    assert confusion_matrix(predictions()).tolist() == [[1, 2, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_the_scores_of_classes_are_shares_of_rows_and_columns() -> None:
    assert class_scores(confusion_matrix(predictions())) == [
        ClassScore(0, 3, 1 / 3, 1 / 2, (1, 2)),
        ClassScore(1, 2, 1 / 2, 1 / 4, (0, 1)),
        ClassScore(2, 1, 0.0, None, (1, 1)),
        ClassScore(3, 0, None, None, None),
    ]


def test_a_class_that_is_mostly_right_is_named_for_its_mistakes() -> None:
    first, second = class_scores(np.array([[5, 2], [0, 3]]))
    assert (first.mistaken_for, second.mistaken_for) == ((1, 2), None)


def test_confusions_come_most_frequent_first_and_those_that_never_were_do_not() -> None:
    assert confusions(confusion_matrix(predictions()), 10) == [(0, 1, 2), (1, 0, 1), (2, 1, 1)]
    assert confusions(confusion_matrix(predictions()), 1) == [(0, 1, 2)]
    assert confusions(np.diag([3, 4]), 10) == []


def test_the_surest_mistakes_come_first() -> None:
    found = confident_mistakes(predictions(), 3)
    assert [(position, true, said) for position, true, said, _ in found] == [(4, 1, 0), (2, 0, 1), (1, 0, 1)]
    assert [sure for *_, sure in found] == pytest.approx([0.95, 0.8, 0.6])
    assert len(confident_mistakes(predictions(), 10)) == 4
