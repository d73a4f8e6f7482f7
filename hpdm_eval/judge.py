"""The way from a command line to a record that all metrics on features share.

options → protocol, clips, backbone → features of both sides → the metric's figures → record → terminal, folder

A metric brings one function, `measure(samples, reference, protocol) -> dict`, of two `Side`s and a Protocol; the dict
holds `value` and, where there are any, `ci95` and `details` of the record.
"""

import json
import time
import warnings
from dataclasses import dataclass

import click
import numpy as np

from hpdm.console import common_options, note
from hpdm.environment import choose_device
from hpdm.errors import InputError
from hpdm_eval.backbones import backbone_name, load_backbone
from hpdm_eval.clips import open_clips
from hpdm_eval.commands.options import metric_options, take_protocol, take_reading
from hpdm_eval.features import extract_features
from hpdm_eval.metrics.frechet import Moments
from hpdm_eval.protocols import DEFAULT
from hpdm_eval.records import make_record, save_record
from hpdm_eval.statistics import Statistics, is_statistics
from hpdm_eval.tables import text_table


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One side of a comparison, as a metric sees it."""

    moments: Moments
    features: np.ndarray | None  # float32 [N, D]; None for statistics that were stored without
    probabilities: np.ndarray | None  # float32 [N, K] of a classifier
    summary: dict  # the record's entry: {"path", "sha256", "clips", "rejected"}

    @property
    def count(self):
        return self.summary["clips"]

    @property
    def distribution(self):
        """Features [N, D] where there are any, else `Moments`."""
        return self.moments if self.features is None else self.features


def judging_options(protocol=DEFAULT, reference=True):
    """Options of a metric command: --samples, --reference, how to read and compare them, where the result goes."""
    def decorate(function):
        for option in (
            click.option("--record", "folder", type=click.Path(file_okay=False), metavar="DIR",
                         help="Also save the record in this folder."),
            click.option("--json", "as_json", is_flag=True, help="Print the record as JSON in place of the table."),
        ):
            function = option(function)
        function = metric_options(protocol)(common_options(function))
        if reference:
            function = click.option("--reference", required=True, type=click.Path(), metavar="DIR|STATS.npz",
                                    help="Real clips, or their statistics from `hpdm-eval stats`.")(function)
        return click.option("--samples", required=True, type=click.Path(), metavar="DIR|FILE",
                            help="Clips to judge: videos, folders of frames, arrays, or a zip of them.")(function)
    return decorate


def judge(metric, measure, options, *, higher_is_better, unit=None):
    """Run one metric as `options` (those of `judging_options`, by name) say; show and return its Record.

    Everything that can be found wrong without running the network is, before it runs.
    """
    started = time.time()
    options = dict(options)
    quiet, device = options["quiet"], choose_device(options["device"])
    protocol = take_protocol(options)
    sources = {role: open_source(role, protocol, options) for role in ("samples", "reference") if role in options}
    backbone = open_backbone(protocol, options, device)
    stored = sources.get("reference")
    if isinstance(stored, Statistics):
        stored.check_match(protocol, backbone.describe(), options["reference"])
    sides = {role: read_side(source, backbone, options) for role, source in sources.items()}
    samples, reference = sides["samples"], sides.get("reference")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figures = measure(samples, reference, protocol)
    messages = tuple(dict.fromkeys(str(warning.message) for warning in caught))

    record = make_record(
        started=started,
        device=device,
        metric=metric,
        unit=unit,
        higher_is_better=higher_is_better,
        protocol={**protocol.to_dict(), "hash": protocol.hash()},
        num_samples=samples.count,
        num_reference=reference and reference.count,
        samples=samples.summary,
        reference=reference and reference.summary,
        backbone=backbone.describe(),
        seed=options["seed"],
        warnings=messages,
        **figures,
    )
    for message in messages:
        note(f"warning: {message}", quiet)
    click.echo(json.dumps(record.to_dict(), ensure_ascii=False) if options["as_json"] else text_table([record]))
    if options["folder"]:
        note(f"record: {save_record(record, options['folder'])}", quiet)
    return record


def open_source(role, protocol, options):
    """`Statistics` where the reference is a file of them, else a ClipSource."""
    if role == "reference" and is_statistics(options[role]):
        return Statistics.load(options[role])
    return open_clips(options[role], protocol, role=role, **take_reading(options, role))


def open_backbone(protocol, options, device):
    """The backbone that the protocol and the options name; InputError where the protocol cuts too few frames."""
    backbone = load_backbone(
        protocol.backbone,
        weights=options["weights"],
        unverified=options["unverified"],
        device=device,
        precision=options["precision"],
        # a protocol states the epsilon of the network it was published with, which is always I3D
        bn_epsilon=protocol.bn_epsilon if backbone_name(protocol.backbone) == "i3d-kinetics400" else None,
        resize_rule=protocol.backbone_resize,
    )
    if protocol.frames is not None and protocol.frames < backbone.min_frames:
        raise InputError(f"{backbone.name} needs at least {backbone.min_frames} frames a clip, and these settings "
                         f"(protocol {protocol.label}) cut {protocol.frames}; give --frames")
    return backbone


def read_side(source, backbone, options):
    """Run the network over a ClipSource, or take what the `Statistics` hold."""
    if isinstance(source, Statistics):
        return Side(moments=source.moments, features=source.features, probabilities=None,
                    summary={**source.source, "statistics": options["reference"]})
    source.min_frames = backbone.min_frames
    extracted = extract_features(source, backbone, batch=options["batch"], quiet=options["quiet"])
    return Side(moments=Moments.of(extracted.features), features=extracted.features,
                probabilities=extracted.probabilities, summary=source.summary())
