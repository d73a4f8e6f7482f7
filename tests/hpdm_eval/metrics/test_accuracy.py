"""Class accuracy against counting by hand, and its interval against the binomial distribution."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from hpdm.support.errors import InputError
from hpdm_eval.metrics.accuracy import class_accuracy, label_in_name, wilson_interval


def test_counts_by_hand():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    accuracy = class_accuracy(probabilities, [0, 1, 1, 1])
    assert accuracy.value == 0.5
    assert accuracy.per_class == [1.0, pytest.approx(1 / 3), None]
    assert accuracy.confusion.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("successes, trials", [(0, 5), (3, 10), (240, 240), (77, 240)])
def test_interval_is_scipys(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_interval_covers():
    covered = sum(
        binom.pmf(k, 240, 0.6) for k in range(241) if wilson_interval(k, 240)[0] <= 0.6 <= wilson_interval(k, 240)[1]
    )
    assert 0.94 < covered < 0.96


def test_labels_come_from_the_names_of_samples():
    assert label_in_name("00012_c003.mp4") == 3
    assert label_in_name("folder/00012_c103.npy#0") == 103
    with pytest.raises(InputError, match="clip.mp4"):
        label_in_name("clip.mp4")


def test_a_label_the_classifier_does_not_know_is_refused():
    with pytest.raises(InputError, match="3 classes"):
        class_accuracy(np.eye(3), [0, 1, 3])
