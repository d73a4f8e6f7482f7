"""The Fréchet video distance over the number of samples."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hpdm_eval.evaluation.comparison import compare
from hpdm_eval.evaluation.settings import Evaluation, Place
from hpdm_eval.evaluation.sides import Side
from hpdm_eval.metrics.fvd import subset_figure
from hpdm_eval.metrics.registry import get_metric
from hpdm_eval.records.record import Record
from hpdm_eval.support.caught import caught_warnings
from hpdm_eval.support.threads import one_thread


def curve_records(sets: Mapping[str, Place], evaluation: Evaluation, at: Sequence[int]) -> dict[str, Record]:
    """A Record for each set of samples by name; its `details` are the points {"n", "value", "spread", ...}.

    at: numbers of samples; those that a set does not have are left out, and all samples of a set are its last point.
    The reference is read once.
    """
    records: dict[str, Record] = {}
    reference: Side | None = None
    for name, path in sets.items():
        comparison = compare(replace(evaluation, samples=path), reference=reference)
        reference = comparison.reference
        count = comparison.samples.count
        with one_thread(), caught_warnings() as said:
            points = [
                {"n": size, **subset_figure(comparison.samples, reference, size, evaluation.protocol, evaluation.seed)}
                for size in sorted({size for size in at if size < count} | {count})
            ]
        figures = {"metric": "fvd-curve", "value": points[-1]["value"], "details": tuple(points)}
        records[name] = comparison.record_of(get_metric("fvd"), figures, said())
    return records
