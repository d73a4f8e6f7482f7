"""Fine detail of clips, and its ratio to that of real ones."""

import numpy as np
import pytest
from scipy import stats

from hpdm_eval.metrics.detail import detail_ratio, fine_detail


def test_fine_detail_is_what_half_the_resolution_loses():
    flat = np.full((4, 8, 8, 3), 100, np.uint8)
    assert fine_detail(flat) == pytest.approx(np.log(1e-6))
    coarse = flat.copy()
    coarse[:, 2:4, 4:6] = 200  # blocks of two survive, up to what is smooth in between
    fine = flat.copy()
    fine[:, ::2] = 120
    fine[:, 1::2] = 80
    assert np.exp(fine_detail(fine)) == pytest.approx(20 / 127.5)
    assert fine_detail(coarse) < fine_detail(fine)


def test_the_ratio_is_of_geometric_means_with_welch_s_interval():
    rng = np.random.default_rng(0)
    samples, real = rng.normal(-2.5, 0.3, 40), rng.normal(-2.0, 0.1, 90)
    ratio = detail_ratio(samples, real)
    expected = stats.ttest_ind(samples, real, equal_var=False).confidence_interval()
    assert ratio.value == pytest.approx(stats.gmean(np.exp(samples)) / stats.gmean(np.exp(real)))
    assert ratio.ci95 == pytest.approx((np.exp(expected.low), np.exp(expected.high)))
    assert detail_ratio(real, real).value == 1 and detail_ratio(samples[:1], real).ci95 is None
