"""Rows that are kept as one array."""

import numpy as np
import pytest

from hpdm_eval.support.rows import FIRST, Rows


@pytest.mark.parametrize("count", [1, FIRST, FIRST + 1, 3 * FIRST])
def test_rows_are_those_that_were_added(count):
    wanted = np.random.default_rng(count).normal(size=(count, 2, 3)).astype(np.float32)
    rows = Rows()
    for row in wanted:
        passing = row.copy()
        rows.add(passing)
        passing[:] = 0  # what was added is a copy
    found = rows.array()
    assert found.dtype == np.float32 and np.array_equal(found, wanted)
    rows.add(wanted[0])
    assert len(found) == count and len(rows.array()) == count + 1


def test_other_shapes_are_refused_and_not_broadcast():
    rows = Rows()
    with pytest.raises(ValueError, match="no row"):
        rows.array()
    rows.add(np.zeros(3, np.float32))
    for other in (np.zeros(1, np.float32), np.zeros((1, 3), np.float32), np.zeros(3)):
        with pytest.raises(ValueError, match="behind rows"):
            rows.add(other)
