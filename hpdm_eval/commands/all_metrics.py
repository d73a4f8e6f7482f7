"""`hpdm-eval all`: every metric on features from one extraction."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from hpdm.support.errors import InputError
from hpdm.support.progress import note
from hpdm_eval.commands.options import judging_options, take_evaluation
from hpdm_eval.commands.printing import announce, details_table
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.settings import SHARDS
from hpdm_eval.metrics.registry import get_metric, in_all


class Names(click.ParamType):
    """Comma-separated names of metrics."""

    name = "NAME,NAME,..."

    def __init__(self, choices: Callable[[], Sequence[str]]) -> None:
        self._choices = choices

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        if isinstance(value, tuple):
            return value
        choices, names = self._choices(), value.split(",")
        if unknown := [name for name in names if name not in choices]:
            self.fail(f"{unknown[0]!r} is none of {', '.join(choices)}", parameter, context)
        return tuple(name for name in choices if name in names)


def names_in_all() -> list[str]:
    """The names of the metrics that `all` takes."""
    return [info.name for info in in_all()]


@click.command("all", cls=RecordedCommand)
@click.option(
    "--metrics",
    type=Names(names_in_all),
    metavar="NAME,NAME,...",
    help="Which; `hpdm-eval ls metrics` lists them. [all that the clips and weights at hand allow]",
)
@click.option("--splits", type=click.IntRange(min=1), default=10, show_default=True, help="Splits of is.")
@click.option(
    "--neighbours", "-k", type=click.IntRange(min=1), default=5, show_default=True, help="Nearest neighbours of prdc."
)
@judging_options(shards=True)
def all_metrics(metrics: tuple[str, ...] | None, splits: int, neighbours: int, **options: Any) -> Any:
    """Compute all metrics on features: one row, and one record, each.

    The clips go through a network once, whatever is made of its features. With the backbone i3d, is and fid look
    through their own networks, c3d and inception, with the weights in the cache; with another one all look through
    that. fid needs a pass over single frames. Metrics that cannot be had are left out with a note, unless --metrics
    asks for them. With --json a list of records is printed.
    """
    from hpdm_eval.evaluation.comparisons import Comparisons
    from hpdm_eval.report.tables import text_table

    shard, folder = options.pop("shard"), options.pop("shards")
    evaluation = take_evaluation(options)
    quiet = evaluation.quiet
    own = {"is": {"splits": splits}, "prdc": {"neighbours": neighbours}}
    if shard:
        _write_share(metrics, Comparisons(evaluation), shard, folder)
    comparisons, records = Comparisons(evaluation), []
    for name in metrics or names_in_all():
        try:
            records.append(comparisons.record(get_metric(name), own.get(name)))
        except InputError as error:
            if metrics or name == "fvd":  # what hinders fvd hinders everything
                raise
            note(f"no {name}: {error}", quiet)
    if options["as_json"]:
        click.echo(json.dumps([record.to_dict() for record in records], ensure_ascii=False))
    else:
        click.echo(text_table(records))
        for record in records:
            if record.details and all("figure" in entry for entry in record.details):
                click.echo(f"\n{record.metric}\n" + details_table(record.details))
    announce(records, {**options, "quiet": quiet})
    return records


def _write_share(metrics, comparisons, shard, folder):
    """Extract the shares of all comparisons that the metrics look at, and end the command; those that cannot be had are
    left out as above."""
    from hpdm_eval.evaluation.shards import share_of, write_shard

    shares, quiet = {}, comparisons.evaluation.quiet
    for name in metrics or names_in_all():
        info = get_metric(name)
        key, evaluation = comparisons.settings_of(info)
        try:
            if key not in shares and info.extracts:
                shares[key] = share_of(evaluation, shard, folder or SHARDS, info.needs == "frames")
        except InputError as error:
            if metrics or name == "fvd":
                raise
            note(f"no {name}: {error}", quiet)
    write_shard(list(shares.values()), shard, folder or SHARDS, comparisons.evaluation)
    raise click.exceptions.Exit(0)
