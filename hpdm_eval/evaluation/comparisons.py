"""Several metrics of one set of samples: those that look through the same network share its features."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hpdm_eval.backbones import backbone_name
from hpdm_eval.evaluation.clip_metrics import evaluate_clips
from hpdm_eval.evaluation.comparison import Comparison, compare
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.evaluation.sides import Side
from hpdm_eval.metrics.registry import MetricInfo
from hpdm_eval.records.record import Record

Key = tuple[str | None, bool, bool]  # (a network of its own, single frames, with a reference)


class Comparisons:
    """The comparisons of one evaluation, each read once for all metrics that share it.

    references: reference sides of earlier evaluations with the same settings but other samples; those read here are
    added.
    """

    def __init__(self, evaluation: Evaluation, references: dict[Key, Side | None] | None = None) -> None:
        self.evaluation = evaluation
        self._references = {} if references is None else references
        self._known: dict[Key, Comparison] = {}

    def of(self, metric: MetricInfo) -> Comparison:
        """The comparison that a metric on features looks at."""
        key, evaluation = self.settings_of(metric)
        if key not in self._known:
            comparison = compare(evaluation, reference=self._references.get(key), per_frame=key[1])
            self._known[key] = comparison
            self._references[key] = comparison.reference
        return self._known[key]

    def record(self, metric: MetricInfo, options: Mapping[str, Any] | None = None) -> Record:
        """The Record of any metric; options: its own, over its defaults."""
        if metric.extracts:
            return self.of(metric).record(metric, options)
        return evaluate_one(metric, self.evaluation, options)

    def settings_of(self, metric: MetricInfo) -> tuple[Key, Evaluation]:
        """(what tells a comparison from others, its evaluation).

        A metric with a network of its own looks through that where the evaluation's is I3D, which no figure of it is
        published with, and then through the weights in the cache; through any other that the evaluation names.
        """
        evaluation, own = self.evaluation, None
        if metric.backbone is not None and backbone_name(evaluation.protocol.backbone) == "i3d-kinetics400":
            own = metric.backbone
            protocol = evaluation.protocol.changed(backbone=own)
            evaluation = replace(evaluation, protocol=protocol, weights=None, precision="fp32")
            if not metric.reference:
                evaluation = replace(evaluation, reference=None)
        key = (own, metric.needs == "frames", evaluation.reference is not None)
        return key, evaluation


def evaluate_one(metric: MetricInfo, evaluation: Evaluation, options: Mapping[str, Any] | None = None) -> Record:
    """The Record of one metric alone, through exactly the network that the evaluation names."""
    chosen = {**metric.defaults(), **(options or {})}
    if not metric.reference and metric.extracts:
        evaluation = replace(evaluation, reference=None)
    if metric.extracts:
        return compare(evaluation, per_frame=metric.needs == "frames").record(metric, chosen)
    if isinstance(metric.measure, str):  # one of ours, which reads its clips by itself
        return metric.function()(evaluation, chosen)
    return evaluate_clips(metric, evaluation, chosen)
