"""Kernel distances against sums written out, torch-fidelity, and what an unbiased estimate must average to."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpdm.support.errors import InputError
from hpdm.support.torchvision_compat import import_torchvision
from hpdm_eval.metrics import kernel
from hpdm_eval.metrics.kernel import jedi_distance, kernel_video_distance, over_subsets, polynomial_mmd


def features(n, dimension=5, shift=0.0, seed=0):
    return np.random.default_rng(seed).normal(shift, 1, (n, dimension))


def written_out(x, y, degree, coef, biased):
    def k(a, b):
        return (float(np.dot(a, b)) / len(a) + coef) ** degree

    def within(side):
        pairs = [(i, j) for i, j in product(range(len(side)), repeat=2) if biased or i != j]
        return np.mean([k(side[i], side[j]) for i, j in pairs])

    return within(x) + within(y) - 2 * np.mean([k(a, b) for a, b in product(x, y)])


@given(
    n=st.integers(2, 9),
    m=st.integers(2, 9),
    degree=st.integers(1, 3),
    coef=st.sampled_from([0.0, 1.0]),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_the_sums_written_out(n, m, degree, coef, biased, seed):
    x, y = features(n, seed=seed), features(m, shift=0.3, seed=seed + 1)
    found = polynomial_mmd(x, y, degree=degree, coef=coef, biased=biased)
    assert found == pytest.approx(written_out(x, y, degree, coef, biased), rel=1e-9, abs=1e-10)


def test_blocks_do_not_show(monkeypatch):
    x, y = features(50), features(37, shift=0.5, seed=1)
    whole = kernel_video_distance(x, y)
    monkeypatch.setattr(kernel, "BLOCK", 8)
    assert kernel_video_distance(x, y) == pytest.approx(whole, rel=1e-12)


def test_equals_torch_fidelity():
    import_torchvision()
    from torch_fidelity.metric_kid import kernel_mmd

    x, y = features(60), features(60, shift=0.2, seed=1)
    theirs = kernel_mmd(
        x, y, kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1
    )
    assert kernel_video_distance(x, y) == pytest.approx(theirs, rel=1e-10)


def test_linear_kernel_is_the_distance_of_means():
    """With degree 1 and coef 0 the biased form is |mean x - mean y|² / D, its unbiased form that less the noise."""
    x, y = features(40, 6), features(30, 6, shift=1, seed=1)
    shift = x.mean(axis=0) - y.mean(axis=0)
    assert polynomial_mmd(x, y, degree=1, coef=0, biased=True) == pytest.approx(shift @ shift / 6, rel=1e-12)
    noise = sum(side.var(axis=0, ddof=1).sum() / len(side) for side in (x, y))
    assert polynomial_mmd(x, y, degree=1, coef=0) == pytest.approx((shift @ shift - noise) / 6, rel=1e-10)


def test_unbiased_averages_to_nothing_and_the_biased_does_not():
    values = [
        (kernel_video_distance(*pair), polynomial_mmd(*pair, biased=True))
        for pair in ((features(20, 3, seed=2 * i), features(20, 3, seed=2 * i + 1)) for i in range(300))
    ]
    unbiased, biased = np.array(values).T
    error = unbiased.std() / np.sqrt(len(unbiased))
    assert abs(unbiased.mean()) < 4 * error
    assert biased.mean() > 10 * error and unbiased.min() < 0


def test_jedi_is_nought_for_equal_sets_and_scaled():
    x, y = features(30), features(30, shift=0.4, seed=1)
    assert jedi_distance(x, x[::-1]) == pytest.approx(0, abs=1e-10)
    assert jedi_distance(x, y) == pytest.approx(100 * written_out(x, y, 2, 0.0, True), rel=1e-9)


def test_subsets_are_seeded_and_spread():
    x, y = features(80), features(90, shift=0.5, seed=1)
    found = over_subsets(kernel_video_distance, x, y, subsets=12, subset_size=40, seed=3)
    assert found == over_subsets(kernel_video_distance, x, y, subsets=12, subset_size=40, seed=3)
    assert found.std > 0 and (found.subsets, found.subset_size) == (12, 40)
    whole = over_subsets(kernel_video_distance, x, y[:80], subsets=3, subset_size=80)
    assert whole.mean == pytest.approx(kernel_video_distance(x, y[:80])) and whole.std == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="--subset-size"):
        over_subsets(kernel_video_distance, x, y, subsets=1, subset_size=81)


@pytest.mark.parametrize(
    "x, y, message",
    [
        (features(1), features(4), "at least 2 clips"),
        (features(3, 4), features(3, 5), "one backbone"),
        (np.full((3, 2), np.nan), features(3, 2), "not finite"),
    ],
)
def test_bad_input(x, y, message):
    with pytest.raises(InputError, match=message):
        kernel_video_distance(x, y)
