import numpy as np
import pytest

from training.evaluation.metrics.inception_score import inception_score


def test_score_is_number_of_certain_and_balanced_classes():
    certain = 50 * np.eye(7)[np.arange(700) % 7]
    assert inception_score(certain, splits=1)[0] == pytest.approx(7)


def test_score_of_a_single_class_is_1():
    assert inception_score(50 * np.eye(7)[np.zeros(700, int)])[0] == pytest.approx(1)


def test_score_of_uncertain_classes_is_1():
    assert inception_score(np.zeros((700, 7)))[0] == pytest.approx(1)


def test_rejects_fewer_rows_than_splits():
    with pytest.raises(ValueError, match="10 splits"):
        inception_score(np.zeros((9, 4)))
