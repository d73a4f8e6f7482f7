"""`hpdm-eval prdc`: precision, recall, density and coverage."""

import click

from hpdm_eval.commands.fvd import details_table
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.comparison import judge, judging_options
from hpdm_eval.metrics.prdc import NEIGHBOURS
from hpdm_eval.metrics.prdc import prdc as prdc_of

FIGURES = ("precision", "recall", "density", "coverage")


@click.command(cls=RecordedCommand)
@click.option(
    "--neighbours",
    "-k",
    type=click.IntRange(min=1),
    default=NEIGHBOURS,
    show_default=True,
    help="The neighbour that the ball of a clip reaches to.",
)
@judging_options(shards=True)
def prdc(neighbours, **options):
    """Precision, recall, density and coverage of samples against real clips: higher is better.

    Precision and density say how real the samples look, recall and coverage how much of the real variety they have. The
    record's value is the coverage; all four depend on the number of clips on both sides.
    """

    def measure_them(samples, reference, protocol):
        return measure(samples, reference, neighbours)

    record = judge("prdc", measure_them, options, higher_is_better=True, unit="coverage")
    if not options["as_json"]:
        click.echo("\n" + details_table(record.details))
    return record


def measure(samples, reference, neighbours=NEIGHBOURS):
    """Figures of two `Side`s that hold features."""
    found = prdc_of(samples.need_features("prdc"), reference.need_features("prdc"), neighbours)
    details = tuple({"figure": name, "value": getattr(found, name), "k": found.k} for name in FIGURES)
    return {"value": found.coverage, "details": details, "settings": {"neighbours": neighbours}}
