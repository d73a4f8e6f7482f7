"""`hpdm-eval is`: Inception Score."""

import click

from hpdm_eval.commands.fvd import details_table
from hpdm_eval.judge import judge, judging_options
from hpdm_eval.metrics.inception_score import SPLITS, inception_score
from hpdm_eval.records import RecordedCommand


@click.command("is", cls=RecordedCommand)
@click.option("--splits", type=click.IntRange(min=1), default=SPLITS, show_default=True,
              help="Parts over which the score is averaged.")
@judging_options(reference=False, backbone="c3d")
def inception_score_command(splits, **options):
    """Inception Score of samples: higher is better, at most the number of classes.

    Published scores of UCF-101 are those of the backbone c3d, which sees 16 frames, with 10,000 samples and 10 splits.
    Fewer samples or more splits score lower, so n and splits stand beside the figure.
    """
    def measure_them(samples, reference, protocol):
        return measure(samples, splits, options["seed"])

    record = judge("is", measure_them, options, higher_is_better=True)
    if not options["as_json"]:
        click.echo("\n" + details_table(record.details))
    return record


def measure(samples, splits=SPLITS, seed=0):
    """Figures of a `Side`; the clips are shuffled by `seed`."""
    score = inception_score(samples.probabilities, splits, seed)
    detail = {"figure": "is", "value": score.mean, "std": score.std, "n": score.n, "splits": score.splits}
    return {"value": score.mean, "details": (detail,), "settings": {"splits": splits}}


# The only clips are --samples, read with --grid.
inception_score_command.params = [
    parameter for parameter in inception_score_command.params if parameter.name != "reference_grid"
]
