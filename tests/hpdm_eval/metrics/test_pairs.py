"""Tests between sets of samples: the arithmetic against scipy, and how often they are wrong on simulated sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hpdm.support.errors import InputError
from hpdm_eval.features.moments import Moments
from hpdm_eval.metrics.pairs import Estimate, compare_pairs, holm
from hpdm_eval.metrics.uncertainty import grouped_jackknife, jackknife_errors


def estimate(name, value, error, groups=20):
    return Estimate(name=name, value=value, standard_error=error, groups=groups)


def test_a_pair_is_welchs_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.0, 1, 20), rng.normal(0.9, 2, 20)
    errors = [x.std(ddof=1) / np.sqrt(20) for x in (a, b)]
    (pair,) = compare_pairs([estimate("a", a.mean(), errors[0]), estimate("b", b.mean(), errors[1])])
    expected = stats.ttest_ind(a, b, equal_var=False)
    assert pair.p_value == pytest.approx(expected.pvalue) and pair.adjusted == pair.p_value
    low, high = expected.confidence_interval(0.95)
    assert pair.ci95 == (pytest.approx(low), pytest.approx(high))
    assert pair.difference == pytest.approx(a.mean() - b.mean())


def test_intervals_stay_within_what_a_figure_can_be():
    wide = estimate("a", 0.9, 0.1)
    half = stats.t.ppf(0.975, 19) * 0.1
    assert wide.interval() == (pytest.approx(0.9 - half), pytest.approx(0.9 + half))
    assert wide.interval(0, 1) == (pytest.approx(0.9 - half), 1)


def test_equal_sets_differ_in_nothing():
    pairs = compare_pairs([estimate(name, 3.0, 0.0) for name in "ab"] + [estimate("c", 4.0, 0.0)])
    assert [(pair.first, pair.second, pair.p_value, pair.significant) for pair in pairs] == [
        ("a", "b", 1.0, False),
        ("a", "c", 0.0, True),
        ("b", "c", 0.0, True),
    ]


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.2]) == [0.2]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_none_and_bonferroni_and_keeps_the_order(values):
    adjusted = holm(values)
    for value, corrected in zip(values, adjusted, strict=True):
        assert value <= corrected <= min(1, len(values) * value) + 1e-12
    order = np.argsort(values, kind="stable")
    assert all(np.diff(np.array(adjusted)[order]) >= 0)


def test_jackknife_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(0).normal(size=(400, 2)) * [1, 5]
    dealt = np.random.default_rng(0).permutation(400).reshape(20, 20)
    expected = x[dealt].mean(1).std(0, ddof=1) / np.sqrt(20)  # equal groups: the error of the mean of group means
    errors = jackknife_errors(lambda rows: x[rows].mean(0), 400)
    np.testing.assert_allclose(errors, expected)
    np.testing.assert_allclose(errors, x.std(0, ddof=1) / 20, rtol=0.5)
    with pytest.raises(InputError, match="at least 40 clips"):
        jackknife_errors(lambda rows: [0], 39)


def test_false_and_true_differences_of_frechet_distances():
    """Sets of one generator are told apart in about 5 % of the cases, clearly different ones almost always."""
    rng = np.random.default_rng(0)
    reference = Moments.of(rng.normal(size=(2000, 6)))

    def significant(shift):
        estimates = []
        for name, mean in (("a", 0.4), ("b", 0.4 + shift)):
            found = grouped_jackknife(rng.normal(mean, 1, (200, 6)), reference)
            estimates.append(estimate(name, found.value, found.standard_error))
        return compare_pairs(estimates)[0].significant

    wrong = sum(significant(0.0) for _ in range(200))
    assert wrong <= 20  # 10 expected, 3.2 standard deviations
    assert sum(significant(0.25) for _ in range(30)) >= 27
