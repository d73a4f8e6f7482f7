"""Differences of sets made from the same noise: what their intervals cover, and that pairing narrows them."""

import numpy as np
import pytest

from hpdm_eval.metrics.frechet import frechet_from_features
from hpdm_eval.studies.sampling.pairing import frechet_difference, mean_difference, over_networks

N, D, DRAWS = 100, 3, 80


def pairs(rng, shift, count=N):
    """Two sets that share most of their noise, the first of them moved by `shift` and stretched."""
    shared, own, other = (rng.standard_normal((count, D)) for _ in range(3))
    return 1.05 * (0.9 * shared + 0.43 * own) - shift, 0.9 * shared + 0.43 * other


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_interval_covers_the_mean_difference(shift):
    rng = np.random.default_rng(1)
    reference = rng.standard_normal((1000, D)) + 1.0
    found = [frechet_difference(*pairs(rng, shift), reference) for _ in range(DRAWS)]
    truth = np.mean([difference.value for difference in found])
    covered = np.mean([difference.ci95[0] <= truth <= difference.ci95[1] for difference in found])
    assert 0.90 <= covered <= 0.985
    assert (np.mean([difference.within_noise for difference in found]) < 0.05) == (shift > 0)


def test_sets_that_are_alike_are_seldom_told_apart():
    rng = np.random.default_rng(2)
    reference = rng.standard_normal((1000, D)) + 1.0
    apart = []
    for _ in range(DRAWS):
        shared, own, other = (rng.standard_normal((N, D)) for _ in range(3))
        found = frechet_difference(0.9 * shared + 0.43 * own, 0.9 * shared + 0.43 * other, reference)
        apart.append(not found.within_noise)
    assert np.mean(apart) <= 0.10


def test_the_difference_is_that_of_two_distances_and_pairs_make_it_sure():
    rng = np.random.default_rng(3)
    own, other = pairs(rng, 0.3)
    reference = rng.standard_normal((500, D)) + 1.0
    paired = frechet_difference(own, other, reference)
    assert paired.value == pytest.approx(
        frechet_from_features(own, reference) - frechet_from_features(other, reference), abs=1e-6
    )
    crossed = frechet_difference(own, other[rng.permutation(N)], reference)
    assert crossed.value == pytest.approx(paired.value, abs=1e-9)
    assert np.ptp(paired.ci95) < 0.7 * np.ptp(crossed.ci95)
    assert frechet_difference(own[:30], other[:30], reference).ci95 is None


def test_mean_differences_of_pairs_and_of_networks():
    rng = np.random.default_rng(4)
    covered = []
    for _ in range(400):
        shared = rng.standard_normal(20)
        found = mean_difference(shared + 0.1 * rng.standard_normal(20) + 0.05, shared)
        covered.append(found.ci95[0] <= 0.05 <= found.ci95[1])
    assert 0.92 <= np.mean(covered) <= 0.975
    assert mean_difference([True, True, False], [True, False, False]).ci95 is None
    covered = [np.prod(np.subtract(over_networks(rng.normal(1, 0.5, 3)).ci95, 1)) <= 0 for _ in range(400)]
    assert 0.92 <= np.mean(covered) <= 0.975
    assert over_networks([0.5]).ci95 is None and over_networks([0.5]).within_noise is None
