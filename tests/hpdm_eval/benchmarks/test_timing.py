"""Rates by round, and where their median lies."""

import numpy as np
import pytest

from hpdm_eval.support.timing import median_interval, median_rates, rates_by_round


def test_every_round_runs_all_stages_in_turn_after_one_that_warms_up():
    calls = []
    stages = {name: (items, lambda name=name: calls.append(name)) for name, items in (("a", 1), ("b", 8))}
    rates = rates_by_round(stages, 3, quiet=True)
    assert calls == ["a", "b"] * 4 and [len(own) for own in rates.values()] == [3, 3]
    assert all(rate > 0 for own in rates.values() for rate in own)
    assert set(median_rates(stages, 2, quiet=True)) == {"a", "b"}


@pytest.mark.parametrize("count", [6, 7, 12, 40])
def test_the_interval_covers_the_median_of_what_was_drawn(count):
    rng = np.random.default_rng(count)
    hits, narrower = 0, 0
    for _ in range(2000):
        values = rng.lognormal(sigma=1.0, size=count)
        low, high = median_interval(values)
        hits += low <= 1.0 <= high
        inner = np.sort(values)
        at = np.searchsorted(inner, low) + 1
        narrower += inner[at] <= 1.0 <= inner[-at - 1]
    assert hits / 2000 > 0.94 and narrower / 2000 < 0.95


def test_few_values_have_no_interval():
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert median_interval([6.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == (1.0, 6.0)
