"""`hpdm-eval all`: every metric on features from one extraction."""

import json

import click

from hpdm.support.errors import InputError
from hpdm.support.progress import note
from hpdm_eval.backbones import backbone_name
from hpdm_eval.commands import fid, fvd, inception_score, kvd, prdc
from hpdm_eval.commands.fvd import details_table
from hpdm_eval.commands.options import take_protocol
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.comparison import announce, compare, judging_options, share_of
from hpdm_eval.evaluation.shards import finish_shard
from hpdm_eval.metrics.inception_score import SPLITS
from hpdm_eval.metrics.prdc import NEIGHBOURS
from hpdm_eval.report.tables import text_table

METRICS = ("fvd", "kvd", "prdc", "is", "fid")
# what a metric looks through where the comparison's own network is I3D
OWN_BACKBONE = {"is": "c3d", "fid": "inception"}


class Names(click.ParamType):
    """Comma-separated names of metrics."""

    name = "NAME,NAME,..."

    def __init__(self, choices=METRICS):
        self._choices = choices

    def convert(self, value, parameter, context):
        if isinstance(value, tuple):
            return value
        names = value.split(",")
        if unknown := [name for name in names if name not in self._choices]:
            self.fail(f"{unknown[0]!r} is none of {', '.join(self._choices)}", parameter, context)
        return tuple(name for name in self._choices if name in names)


@click.command("all", cls=RecordedCommand)
@click.option(
    "--metrics",
    type=Names(),
    metavar="NAME,NAME,...",
    help=f"Which of {', '.join(METRICS)}. [all that the clips and weights at hand allow]",
)
@click.option("--splits", type=click.IntRange(min=1), default=SPLITS, show_default=True, help="Splits of is.")
@click.option(
    "--neighbours",
    "-k",
    type=click.IntRange(min=1),
    default=NEIGHBOURS,
    show_default=True,
    help="Nearest neighbours of prdc.",
)
@judging_options(shards=True)
def all_metrics(metrics, splits, neighbours, **options):
    """Compute all metrics on features: one row, and one record, each.

    The clips go through a network once, whatever is made of its features. With the backbone i3d, is and fid look
    through their own networks, c3d and inception, with the weights in the cache; with another one all look through
    that. fid needs a pass over single frames. Metrics that cannot be had are left out with a note, unless --metrics
    asks for them. With --json a list of records is printed.
    """
    seed, quiet = options["seed"], options["quiet"]
    measures = {
        "fvd": lambda x, y, protocol: fvd.measure(x, y, protocol, interval=True, seed=seed),
        "kvd": lambda x, y, protocol: kvd.measure(x, y, seed=seed),
        "prdc": lambda x, y, protocol: prdc.measure(x, y, neighbours),
        "is": lambda x, y, protocol: inception_score.measure(x, splits, seed),
        "fid": fid.measure,
    }
    settings = {"prdc": {"higher_is_better": True, "unit": "coverage"}, "is": {"higher_is_better": True}}
    if options["shard"]:
        finish_shard(_shares(metrics, options), options)
    comparisons, records = {}, []
    for metric in metrics or METRICS:
        try:
            comparison = comparison_for(metric, options, comparisons)
            setting = {"higher_is_better": False, **settings.get(metric, {})}
            records.append(comparison.record(metric, measures[metric], **setting))
        except InputError as error:
            if metrics or metric == "fvd":  # what hinders fvd hinders everything
                raise
            note(f"no {metric}: {error}", quiet)
    if options["as_json"]:
        click.echo(json.dumps([record.to_dict() for record in records], ensure_ascii=False))
    else:
        click.echo(text_table(records))
        for record in records:
            if record.details:
                click.echo(f"\n{record.metric}\n" + details_table(record.details))
    announce(records, options)
    return records


def comparison_for(metric, options, known, references=None):
    """The Comparison that a metric looks at, read once for all that share it; `known` holds those read so far.

    references: reference sides of earlier calls for other samples, kept and used again.
    """
    key, chosen = _chosen(metric, options)
    if key not in known:
        references = {} if references is None else references
        known[key] = compare(chosen, reference=references.get(key), per_frame=metric == "fid")
        references[key] = known[key].reference
    return known[key]


def _chosen(metric, options):
    """(what tells a comparison from others, its options)."""
    own = OWN_BACKBONE[metric] if metric in OWN_BACKBONE and _is_i3d(options) else None
    chosen = dict(options)
    if own:
        # --weights is the file of the comparison's own network
        chosen |= {"backbone": own, "weights": None, "precision": "fp32"}
    if metric == "is" and own:
        del chosen["reference"]
    return (own, metric == "fid"), chosen


def _shares(metrics, options):
    """The shares of all comparisons that the metrics look at; those that cannot be had are left out as above."""
    shares = {}
    for metric in metrics or METRICS:
        key, chosen = _chosen(metric, options)
        try:
            if key not in shares:
                shares[key] = share_of(chosen, per_frame=metric == "fid")
        except InputError as error:
            if metrics or metric == "fvd":
                raise
            note(f"no {metric}: {error}", options["quiet"])
    return list(shares.values())


def _is_i3d(options):
    return backbone_name(take_protocol(dict(options)).backbone) == "i3d-kinetics400"
