"""`hpdm-eval stats`: statistics of real clips, to be used as a reference again and again."""

import click

from hpdm.support.console import OutputFile, common_options
from hpdm.support.environment import choose_device, git_revision, package_versions
from hpdm.support.errors import InputError
from hpdm.support.progress import note
from hpdm_eval.clips.selection import sources_of
from hpdm_eval.clips.source import open_clips
from hpdm_eval.commands.options import metric_options, take_protocol, take_reading
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.comparison import open_backbone
from hpdm_eval.features.cache import open_cache
from hpdm_eval.features.extraction import extract_features, extract_moments
from hpdm_eval.features.moments import Moments
from hpdm_eval.features.reference_statistics import Statistics
from hpdm_eval.records.labels import split_is_missing
from hpdm_eval.records.record import command_line, utc_now


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
@metric_options()
@common_options
def stats(data, out, keep_features, per_frame, **options):
    """Write mean and covariance of the features of real clips, for `--reference` of a metric.

    The file holds a manifest of the protocol, the network and the clips; a metric refuses it where those differ from
    its own.
    """
    if per_frame and keep_features:
        raise InputError("--per-frame with --keep-features: features of single frames are not kept; leave one out")
    if per_frame and options["backbone"] is None:
        options["backbone"] = "inception"
    protocol = take_protocol(options)
    source = open_clips(data, protocol, role="reference", **take_reading(options, "samples"))
    backbone = open_backbone(protocol, options, choose_device(options["device"]), per_frame)
    source.min_frames, source.shared = backbone.min_frames, True
    reading = {"batch": options["batch"], "quiet": options["quiet"], "cache": open_cache(backbone, options)}
    if keep_features:
        extracted = extract_features(source, backbone, **reading)
        features, sources = extracted.features, sources_of(extracted.names, clips=source.settings.rule.clips)
        moments = Moments.of(features)
    else:
        features, sources, moments = None, None, extract_moments(source, backbone, **reading)
    what = "frames" if per_frame else "clips"
    if moments.n < 2:
        raise InputError(f"{data}: statistics need at least 2 {what}, got {moments.n}")
    if moments.n <= moments.dimension:
        note(
            f"warning: {moments.n} {what} for {moments.dimension} features: a distance from these statistics "
            "will be mostly sampling bias",
            options["quiet"],
        )
    statistics = Statistics(
        moments=moments,
        features=features,
        sources=sources,
        protocol={**protocol.to_dict(), "hash": protocol.hash()},
        backbone=backbone.describe(),
        source=source.summary(),
        seed=options["seed"],
        made={"command": command_line(), "versions": package_versions(), "git": git_revision(), "created": utc_now()},
    )
    statistics.save(out)
    missing = " (split not applied)" if split_is_missing(statistics.protocol, statistics.source) else ""
    click.echo(f"{out}: {moments.n} {what}, {backbone.name}, {protocol.label}{missing}")


# The only clips are --data, read with --grid.
stats.params = [parameter for parameter in stats.params if parameter.name != "reference_grid"]
