"""Records that answer one question with different training seeds, as one figure; and when an order may be claimed.

The interval of a mean over three or more trainings is Student's t over them. Of a single training it is the record's
own, which knows nothing of what another training would give; tables say so. Two trainings have a spread, and no
interval.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy import special

from hpdm_eval.records.record import Record
from hpdm_eval.report.collect import NamedRecord

FEWEST_FOR_INTERVAL = 3
COUNTED = ("parameters", "flops", "compute")  # metrics without any uncertainty
RANGES: dict[str, tuple[float, float]] = {
    "accuracy": (0, 1),
    "attributes": (0, 1),
    "fvd": (0, math.inf),
    "is": (1, math.inf),
}  # what they can be


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a table."""

    value: float  # the mean over trainings
    spread: float | None  # standard deviation over trainings, N - 1; None for one
    interval: tuple[float, float] | None  # 95 %; of an exact figure both ends are the value
    exact: bool  # counted, not measured
    records: tuple[NamedRecord, ...]

    @property
    def trainings(self) -> int:
        return len(self.records)

    @property
    def record(self) -> Record:
        """The first of its records, for what all have in common."""
        return self.records[0].record


def aggregate(records: Iterable[NamedRecord]) -> Figure:
    """The `Figure` of one or more `NamedRecord`, one per training seed."""
    records = tuple(records)
    values = [item.record.value for item in records]
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 else None
    exact = all(item.record.metric in COUNTED or item.get("basis") == "computed" for item in records) and not spread
    interval: tuple[float, float] | None
    if exact:
        interval = mean, mean
    elif len(values) >= FEWEST_FOR_INTERVAL:
        low, high = RANGES.get(records[0].record.metric, (-math.inf, math.inf))
        start, end = _interval_of_mean(values)
        interval = min(max(start, low), high), min(max(end, low), high)
    else:
        interval = records[0].record.ci95 if len(values) == 1 else None
    return Figure(value=mean, spread=spread, interval=interval, exact=exact, records=records)


def difference_within_seeds(own: Figure, first: Figure) -> tuple[float, tuple[float, float]] | None:
    """(mean, 95 % interval) of what `own` is above `first` where both have the same training seed; None for fewer than
    three such seeds, and for exact figures.

    Student's t over the differences. Figures of one seed share the clips and their order, the noise of training where
    patches are alike, and the seeds of sampling, or, where only sampling differs, the trained network, which takes out
    some of what seeds do.
    """
    if own.exact and first.exact:
        return None
    values, others = ({item.get("repeat"): item.record.value for item in figure.records} for figure in (own, first))
    differences = [value - others[repeat] for repeat, value in values.items() if repeat in others]
    if len(differences) < FEWEST_FOR_INTERVAL:
        return None
    return statistics.fmean(differences), _interval_of_mean(differences)


def _interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = float(special.stdtrit(len(values) - 1, 0.975)) * error
    return mean - half, mean + half


def order(first: Figure, second: Figure) -> int | None:
    """-1 where `first` is lower than `second`, 1 where it is higher; None where the intervals leave it open:

    they overlap, or one of the two has none.
    """
    if first.interval is None or second.interval is None:
        return None
    if first.interval[1] < second.interval[0]:
        return -1
    if first.interval[0] > second.interval[1]:
        return 1
    return None
