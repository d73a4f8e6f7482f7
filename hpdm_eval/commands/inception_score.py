"""`hpdm-eval is`: Inception Score."""

import warnings

import click

from hpdm_eval.commands.fvd import details_table
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.comparison import judge, judging_options
from hpdm_eval.metrics.inception_score import SPLITS, inception_score, looped_score


@click.command("is", cls=RecordedCommand)
@click.option(
    "--splits",
    type=click.IntRange(min=1),
    help=f"Parts over which the score is averaged. [the protocol's, or {SPLITS}]",
)
@judging_options(reference=False, backbone="c3d", shards=True)
def inception_score_command(splits, **options):
    """Inception Score of samples: higher is better, at most the number of classes.

    Published scores of UCF-101 look through c3d, which sees 16 frames, and differ in numbers of samples and splits:
    --protocol tgan2 (2,048 samples in one split, mean of ten sets), styleganv (2,048 in ten splits), hpdm (10,000 in
    ten splits, inferred). Fewer samples or more splits score lower, so n and splits are printed with the figure.
    """

    def measure_them(samples, reference, protocol):
        return measure(samples, protocol.is_splits or splits, options["seed"], protocol)

    record = judge("is", measure_them, {**options, "is_splits": splits}, higher_is_better=True)
    if not options["as_json"]:
        click.echo("\n" + details_table(record.details))
    return record


def measure(samples, splits=None, seed=0, protocol=None):
    """Figures of a `Side`; the clips are shuffled by `seed`. protocol: one that may ask for several sets."""
    splits, loops = splits or SPLITS, (protocol and protocol.is_loops) or 1
    if loops > 1:
        score = looped_score(
            samples.probabilities,
            splits=splits,
            loops=loops,
            per_loop=(protocol.num_samples or samples.count) // loops,
            seed=seed,
        )
        if score.loops < loops:
            warnings.warn(
                f"{score.loops} of the {loops} sets that {protocol.name} averages over: there are "
                f"{samples.count} samples and it takes {protocol.num_samples}"
            )
    else:
        score = inception_score(samples.probabilities, splits, seed)
    detail = {"figure": "is", "value": score.mean, "std": score.std, "n": score.n, "splits": score.splits}
    settings = {"splits": splits}
    if loops > 1:
        detail["sets"] = settings["sets"] = score.loops
    return {"value": score.mean, "details": (detail,), "settings": settings}


# The only clips are --samples, read with --grid.
inception_score_command.params = [
    parameter for parameter in inception_score_command.params if parameter.name != "reference_grid"
]
