"""`hpdm-eval stats`: statistics of real clips, to be used as a reference again and again."""

from typing import Any

import click

from hpdm.support.console import OutputFile, common_options
from hpdm.support.errors import InputError
from hpdm_eval.commands.options import metric_options, take_evaluation
from hpdm_eval.commands.recorded import RecordedCommand


@click.command(cls=RecordedCommand)
@click.option(
    "--data",
    required=True,
    type=click.Path(),
    metavar="DIR|FILE",
    help="Real clips: videos, folders of frames, arrays, a zip or tar of them, or a .txt list of files.",
)
@click.option("--out", required=True, type=OutputFile(), metavar="STATS.npz", help="File to write.")
@click.option("--keep-features", is_flag=True, help="Store every clip's features too, for metrics that need them.")
@click.option(
    "--per-frame", is_flag=True, help="Of single frames, for fid; through inception unless --backbone says otherwise."
)
@metric_options(reference=False)
@common_options
def stats(data: str, out: str, keep_features: bool, per_frame: bool, **options: Any) -> None:
    """Write mean and covariance of the features of real clips, for `--reference` of a metric.

    The file holds a manifest of the protocol, the network and the clips; a metric refuses it where those differ from
    its own.
    """
    if per_frame and keep_features:
        raise InputError("--per-frame with --keep-features: features of single frames are not kept; leave one out")
    if per_frame and options["backbone"] is None:
        options["backbone"] = "inception"
    evaluation = take_evaluation(options, samples=data)

    from hpdm_eval.evaluation.reference import make_statistics
    from hpdm_eval.records.labels import split_is_missing

    statistics = make_statistics(evaluation, keep_features=keep_features, per_frame=per_frame)
    statistics.save(out)
    what = "frames" if per_frame else "clips"
    missing = " (split not applied)" if split_is_missing(statistics.protocol, statistics.source) else ""
    name, label = statistics.backbone["name"], evaluation.protocol.label
    click.echo(f"{out}: {statistics.moments.n} {what}, {name}, {label}{missing}")
