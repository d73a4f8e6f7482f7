"""`hpdm-eval fvd`: Fréchet video distance."""

import click

from hpdm_eval.judge import judge, judging_options
from hpdm_eval.metrics.frechet import frechet_distance
from hpdm_eval.records import RecordedCommand


@click.command(cls=RecordedCommand)
@judging_options()
def fvd(**options):
    """Fréchet video distance of samples from real clips: lower is better, 0 for identical sets.

    The figure depends on how clips are cut, resized and counted and on the network, so it is printed with the
    protocol's name and hash and the network's name, and compares only to figures that share them.
    """
    return judge("fvd", measure, options, higher_is_better=False)


def measure(samples, reference, protocol):
    """The distance of two `Side`s under a protocol's ddof and square root."""
    return {"value": frechet_distance(samples.distribution, reference.distribution,
                                      ddof=protocol.ddof, root=protocol.root)}
