"""`hpdm-eval kvd`: kernel video distance."""

import click

from hpdm_eval.commands.fvd import details_table
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.comparison import judge, judging_options
from hpdm_eval.metrics.kernel import jedi_distance, kernel_video_distance, over_subsets

VARIANTS = {"kvd": kernel_video_distance, "jedi": jedi_distance}


@click.command(cls=RecordedCommand)
@click.option(
    "--variant",
    type=click.Choice(list(VARIANTS)),
    default="kvd",
    show_default=True,
    help="kvd: unbiased, degree 3, coef 1; jedi: biased, degree 2, coef 0, times 100.",
)
@click.option("--subsets", type=click.IntRange(min=1), help="Also mean and spread over so many random subsets.")
@click.option(
    "--subset-size", type=click.IntRange(min=2), default=1000, show_default=True, help="Clips in such a subset."
)
@judging_options(shards=True)
def kvd(variant, subsets, subset_size, **options):
    """Kernel video distance of samples from real clips: lower is better, about 0 for sets alike.

    The squared maximum mean discrepancy of the features with a polynomial kernel. Its estimate is unbiased, so that it
    can be used on few clips and may come out below 0.
    """

    def measure_them(samples, reference, protocol):
        return measure(samples, reference, variant, subsets, subset_size, options["seed"])

    record = judge("kvd" if variant == "kvd" else f"mmd-{variant}", measure_them, options, higher_is_better=False)
    if record.details and not options["as_json"]:
        click.echo("\n" + details_table(record.details))
    return record


def measure(samples, reference, variant="kvd", subsets=None, subset_size=1000, seed=0):
    """Figures of two `Side`s that hold features."""
    distance = VARIANTS[variant]
    x, y = samples.need_features("kvd"), reference.need_features("kvd")
    figures = {"value": distance(x, y)}
    if subsets:
        figures["settings"] = {"subsets": subsets, "subset_size": subset_size}
        found = over_subsets(distance, x, y, subsets=subsets, subset_size=subset_size, seed=seed)
        figures["details"] = (
            {
                "figure": "mean over subsets",
                "value": found.mean,
                "std": found.std,
                "subsets": found.subsets,
                "subset_size": found.subset_size,
            },
        )
    return figures
