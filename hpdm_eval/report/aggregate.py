"""Records that answer one question with different training seeds, as one figure; and when an order may be claimed.

The interval of a mean over three or more trainings is Student's t over them. Of a single training it is the record's
own, which knows nothing of what another training would give; tables say so. Two trainings have a spread, and no
interval.
"""

import math
import statistics
from dataclasses import dataclass

from scipy import stats

from hpdm_eval.report.collect import Found

FEWEST_FOR_INTERVAL = 3
COUNTED = ("parameters", "flops")  # metrics without any uncertainty


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a table."""

    value: float  # the mean over trainings
    spread: float | None  # standard deviation over trainings, N - 1; None for one
    interval: tuple[float, float] | None  # 95 %; of an exact figure both ends are the value
    exact: bool  # counted, not measured
    found: tuple[Found, ...]

    @property
    def trainings(self):
        return len(self.found)

    @property
    def record(self):
        """The first of its records, for what all have in common."""
        return self.found[0].record


def aggregate(found):
    """The `Figure` of one or more `Found`, one per training seed."""
    found = tuple(found)
    values = [item.record.value for item in found]
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 else None
    exact = all(item.record.metric in COUNTED or item.get("basis") == "computed" for item in found) and not spread
    if exact:
        interval = mean, mean
    elif len(values) >= FEWEST_FOR_INTERVAL:
        half = float(stats.t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
        interval = mean - half, mean + half
    else:
        interval = found[0].record.ci95 if len(values) == 1 else None
    return Figure(value=mean, spread=spread, interval=interval, exact=exact, found=found)


def order(first, second):
    """-1 where `first` is lower than `second`, 1 where it is higher; None where the intervals do not tell.

    Intervals that overlap, or that one of the two lacks, tell nothing.
    """
    if first.interval is None or second.interval is None:
        return None
    if first.interval[1] < second.interval[0]:
        return -1
    if first.interval[0] > second.interval[1]:
        return 1
    return None
