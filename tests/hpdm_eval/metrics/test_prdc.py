"""Precision, recall, density and coverage against their definitions spelt out, torch-fidelity, and known layouts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpdm.support.errors import InputError
from hpdm.support.torchvision_compat import import_torchvision
from hpdm_eval.metrics.prdc import prdc


def features(n, dimension=4, shift=0.0, seed=0):
    return np.random.default_rng(seed).normal(shift, 1, (n, dimension))


def by_definition(samples, reference, k):
    def distance(a, b):
        return float(np.sqrt(((a - b) ** 2).sum()))

    def radius(index, side):
        return sorted(distance(side[index], other) for i, other in enumerate(side) if i != index)[k - 1]

    real = [radius(i, reference) for i in range(len(reference))]
    fake = [radius(j, samples) for j in range(len(samples))]
    in_real = [[distance(x, y) < r for x, r in zip(reference, real)] for y in samples]
    in_fake = [[distance(x, y) < r for y, r in zip(samples, fake)] for x in reference]
    return {
        "precision": np.mean([any(balls) for balls in in_real]),
        "recall": np.mean([any(balls) for balls in in_fake]),
        "density": np.mean([sum(balls) for balls in in_real]) / k,
        "coverage": np.mean([any(column) for column in zip(*in_real)]),
    }


@given(
    n=st.integers(4, 20),
    m=st.integers(4, 20),
    k=st.integers(1, 3),
    seed=st.integers(0, 99),
    block=st.sampled_from([None, 1, 3, 7]),
)
def test_equals_the_definitions(n, m, k, seed, block):
    samples, reference = features(m, shift=0.5, seed=seed), features(n, seed=seed + 1)
    found = prdc(samples, reference, k, block=block)
    for name, value in by_definition(samples, reference, k).items():
        assert getattr(found, name) == pytest.approx(value), name
    assert found.k == k


def test_equals_torch_fidelity():
    import_torchvision()
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    samples, reference = features(300, 8, shift=0.3), features(250, 8, seed=1)
    precision, recall = calculate_precision_recall_full(torch.from_numpy(samples), torch.from_numpy(reference), 5)
    found = prdc(samples, reference, 5)
    assert found.precision == pytest.approx(precision, abs=1e-6)
    assert found.recall == pytest.approx(recall, abs=1e-6)


def test_points_on_a_line():
    """Real clips at 0, 1, 2, 3 with balls of radius 1; one sample at home, one between two clips, one far away."""
    reference = np.array([[0.0], [1], [2], [3]])
    found = prdc(np.array([[0.25], [2.5], [50]]), reference, k=1)
    assert found.precision == pytest.approx(2 / 3)
    assert found.density == pytest.approx(4 / 3)  # 0 and 1 hold the first, 2 and 3 the second
    assert found.coverage == 1
    # balls of the samples: 2.25 around 0.25 and 2.5, 47.5 around 50, all of them open
    assert found.recall == 1


def test_sets_alike_and_sets_apart():
    found = prdc(features(800), features(800, seed=1))
    assert found.density == pytest.approx(1, abs=0.1) and found.coverage > 0.9 and found.k == 5
    assert found.precision > 0.9 and found.recall > 0.9
    apart = prdc(features(100), features(100, shift=50, seed=1))
    assert (apart.precision, apart.recall, apart.density, apart.coverage) == (0, 0, 0, 0)


def test_lack_of_variety_costs_recall_and_coverage_not_precision():
    reference = features(600)
    narrow = features(600, seed=1) * 0.3
    found = prdc(narrow, reference)
    assert found.precision > 0.95 and found.density > 1 and found.recall < 0.5 and found.coverage < 0.7


def test_one_real_outlier_moves_precision_not_coverage():
    reference, wrong = features(200), features(200, shift=8, seed=1)
    outlier = np.vstack([reference, np.full((1, 4), 20.0)])
    assert prdc(wrong, reference).precision == 0
    assert prdc(wrong, outlier).precision == 1
    assert prdc(wrong, outlier).coverage < 0.01


def test_far_from_the_origin_nothing_changes():
    samples, reference = features(60, shift=0.3), features(60, seed=1)
    assert prdc(samples + 1e6, reference + 1e6) == prdc(samples, reference)


@pytest.mark.parametrize(
    "samples, reference, message",
    [
        (features(5), features(9), "more than 5 clips on each side, got 5 samples"),
        (features(9, 3), features(9, 4), "one backbone"),
        (np.full((9, 2), np.inf), features(9, 2), "not finite"),
    ],
)
def test_bad_input(samples, reference, message):
    with pytest.raises(InputError, match=message):
        prdc(samples, reference)
