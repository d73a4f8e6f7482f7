"""What a metric makes of two sides."""

from hpdm_eval.metrics.registry import get_metric
from hpdm_eval.metrics.settings import MetricSettings


def figures(metric, samples, reference, protocol, seed=0, **options):
    """The fields of the metric's record, with its own options over their defaults."""
    info = get_metric(metric)
    settings = MetricSettings(protocol=protocol, seed=seed, options={**info.defaults(), **options})
    return info.function()(samples, reference, settings)


def measure(samples, reference, protocol, interval=False, **options):
    """FVD, without its interval unless that is asked for."""
    return figures("fvd", samples, reference, protocol, interval=interval, **options)
