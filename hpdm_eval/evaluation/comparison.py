"""The way from a command line to a record that all metrics on features share.

options → protocol, clips, backbone → features of both sides → the metric's figures → record → terminal, folder

A metric brings one function, `measure(samples, reference, protocol) -> dict`, of two `Side`s and a Protocol; the dict
holds `value` and, where there are any, `ci95`, `details` and `settings` of the record. Settings are the metric's own,
such as the number of splits: JSON-able, and what tells two records of the same clips apart.
"""

import json
import re
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from hpdm.support.console import OutputFolder, common_options
from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm.support.files import parse_json, sha256_file
from hpdm.support.progress import note
from hpdm_eval.backbones import Backbone, PerFrame, backbone_name, load_backbone
from hpdm_eval.backbones.backbone import check_frames
from hpdm_eval.backbones.loading import KINDS
from hpdm_eval.clips.selection import sources_of
from hpdm_eval.clips.source import ClipSource, open_clips
from hpdm_eval.commands.options import metric_options, take_protocol, take_reading
from hpdm_eval.evaluation.shards import check_shard, extract_share, finish_shard, shard_options
from hpdm_eval.features.cache import open_cache
from hpdm_eval.features.calls import call_size
from hpdm_eval.features.extraction import extract_features, extract_moments
from hpdm_eval.features.moments import Moments
from hpdm_eval.features.reference_statistics import Statistics, is_statistics
from hpdm_eval.protocols import DEFAULT, Protocol
from hpdm_eval.records.record import make_record, save_record
from hpdm_eval.report.tables import text_table
from hpdm_eval.support.distributed import rank_and_size
from hpdm_eval.support.threads import one_thread

MANY_COPIES = 100  # from one clip in so many on, copies are worth a remark
FAMILIES = ("videomae", "vjepa", "i3d", "c3d", "inception", "shapes3d")


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One side of a comparison, as a metric sees it."""

    moments: Moments
    features: np.ndarray | None  # float32 [N, D]; None for statistics that were stored without, and for frames
    probabilities: np.ndarray | None  # float32 [N, K] of a classifier
    summary: dict  # the record's entry: {"path", "sha256", "clips", "rejected"}
    sources: list[str] | None = None  # of each clip, where several come from one video; None: all are independent

    @property
    def count(self):
        return self.summary["clips"]

    @property
    def distribution(self):
        """Features [N, D] where there are any, else `Moments`."""
        return self.moments if self.features is None else self.features

    def need_features(self, metric):
        """Features [N, D]; InputError for statistics that were stored without."""
        if self.features is None:
            raise InputError(
                f"{self.summary['statistics']} holds no features of single clips, and {metric} needs "
                "them; make it again with `hpdm-eval stats --keep-features`, or give the clips"
            )
        return self.features


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Both sides of a comparison, read; what is left is arithmetic."""

    started: float  # time.time()
    device: object
    protocol: Protocol
    backbone: Backbone | PerFrame
    samples: Side
    reference: Side | None
    seed: int
    remarks: tuple[str, ...] = ()  # on both sets of clips and on the judge, for every record

    def record(self, metric, measure, *, higher_is_better, unit=None):
        """The Record of one metric; what its `measure` warns of is in it."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with one_thread():
                figures = measure(self.samples, self.reference, self.protocol)
        settings = figures.pop("settings", None)
        return make_record(
            started=self.started,
            device=self.device,
            metric=metric,
            unit=unit,
            higher_is_better=higher_is_better,
            protocol={**self.protocol.to_dict(), "hash": self.protocol.hash()},
            num_samples=self.samples.count,
            num_reference=self.reference and self.reference.count,
            samples=self.samples.summary,
            reference=self.reference and self.reference.summary,
            backbone=self.backbone.describe(),
            seed=self.seed,
            warnings=tuple(dict.fromkeys([*self.remarks, *(str(warning.message) for warning in caught)])),
            extra=({"settings": settings} if settings else {}) | ({"shards": _shards} if _shards else {}),
            **figures,
        )


def judging_options(protocol=DEFAULT, reference=True, several=False, backbone=None, shards=False):
    """Options of a metric command: --samples, --reference, how to read and compare them, where the result goes.

    several: --samples may be given more than once and comes as a tuple. backbone: default in place of the protocol's.
    shards: whether jobs can share the work.
    """

    def decorate(function):
        function = shard_options(function) if shards else function
        for option in (
            click.option(
                "--record", "folder", type=OutputFolder(), metavar="DIR", help="Also save the record in this folder."
            ),
            click.option("--json", "as_json", is_flag=True, help="Print the record as JSON in place of the table."),
            click.option(
                "--trained-with",
                multiple=True,
                metavar="NAME",
                help="A network, such as videomae, from whose features the samples' model learnt; also read "
                "from `trained_with` in their samples.json. Such a network is refused as their judge.",
            ),
            click.option("--allow-trained-judge", is_flag=True, help="Use it nevertheless; the record is marked."),
            click.option(
                "--group-by",
                default="auto",
                show_default=True,
                metavar="auto|none|folder|REGEX",
                help="Which clips come from one video, and are no independent draws in intervals: auto knows "
                "UCF-101's groups, REGEX is searched in the names.",
            ),
        ):
            function = option(function)
        function = metric_options(protocol, backbone)(common_options(function))
        if reference:
            function = click.option(
                "--reference",
                required=True,
                type=click.Path(),
                metavar="DIR|STATS.npz",
                help="Real clips, or their statistics from `hpdm-eval stats`.",
            )(function)
        text = "Clips to judge: videos, folders of frames, arrays, a zip or tar of them, or a .txt list of files."
        return click.option(
            "--samples",
            required=True,
            type=click.Path(),
            metavar="DIR|FILE",
            multiple=several,
            help=text + " Give it once per set." * several,
        )(function)

    return decorate


def judge(metric, measure, options, *, higher_is_better, unit=None, per_frame=False):
    """Run one metric as `options` (those of `judging_options`, by name) say; show and return its Record."""
    if options.get("shard"):
        finish_shard([share_of(options, per_frame)], options)
    comparison = compare(options, per_frame=per_frame)
    record = comparison.record(metric, measure, higher_is_better=higher_is_better, unit=unit)
    click.echo(json.dumps(record.to_dict(), ensure_ascii=False) if options["as_json"] else text_table([record]))
    announce([record], options)
    return record


def announce(records, options):
    """Say on stderr what records warn of, and save them where `options` say so."""
    for message in dict.fromkeys(message for record in records for message in record.warnings):
        note(f"warning: {message}", options["quiet"])
    if options["folder"] and rank_and_size()[0] == 0:
        for record in records:
            note(f"record: {save_record(record, options['folder'])}", options["quiet"])


def evaluate(metric, measure, options, *, higher_is_better, unit=None, reference=None):
    """The Record of one metric; shows and saves nothing.

    reference: the `Side` that an earlier call with the same options handed to its `measure`, to save reading it again.
    """
    comparison = compare(options, reference=reference)
    return comparison.record(metric, measure, higher_is_better=higher_is_better, unit=unit)


def compare(options, *, reference=None, per_frame=False):
    """Read both sides as `options` say; returns a Comparison. `reference` as in `evaluate`.

    per_frame: single frames are what is compared. Everything that can be found wrong without running the network is,
    before it runs.
    """
    started = time.time()
    opened = open_comparison(options, reference, per_frame)
    sides = {role: read_side(source, opened.backbone, opened.options) for role, source in opened.sources.items()}
    remarks = remarks_on_copies(
        {role: source for role, source in opened.sources.items() if isinstance(source, ClipSource)}
    )
    return Comparison(
        started=started,
        device=opened.device,
        protocol=opened.protocol,
        backbone=opened.backbone,
        samples=sides["samples"],
        reference=reference or sides.get("reference"),
        seed=options["seed"],
        remarks=(*opened.remarks, *remarks),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """A comparison before the network runs: everything that can be found wrong without it has been looked at."""

    options: dict  # without those of the protocol
    device: object
    protocol: Protocol
    sources: dict  # {role: ClipSource or Statistics}
    backbone: Backbone | PerFrame
    remarks: tuple[str, ...]


def share_of(options, per_frame=False):
    """Extract a shard's share of a comparison, see `shards`."""
    check_shard(options)
    opened = open_comparison(options, None, per_frame)
    return extract_share(opened, opened.options)


_shards, _caches = (), ()  # descriptions of those whose features are being merged; their folders


@contextmanager
def merged_from(shards):
    """Within the block, records say that their features come from these shards."""
    global _shards, _caches
    _caches = {name for shard in shards for name in shard["caches"]}
    _shards = tuple({key: shard[key] for key in ("number", "clips", "hardware", "versions", "git")} for shard in shards)
    try:
        yield
    finally:
        _shards, _caches = (), ()


def open_comparison(options, reference=None, per_frame=False):
    """`Opened` as `compare` does it. Raises InputError."""
    options = dict(options)
    device = choose_device(options["device"])
    protocol = take_protocol(options)
    roles = [role for role in ("samples", "reference") if role in options and not (role == "reference" and reference)]
    sources = {role: open_source(role, protocol, options) for role in roles}
    backbone = open_backbone(protocol, options, device, per_frame)
    warn = judge_warnings(protocol.backbone, options)
    stored = sources.get("reference")
    if isinstance(stored, Statistics):
        stored.check_match(protocol, backbone.describe(), options["reference"])
        check_dimension(stored, backbone, options["reference"])
        drawn = protocol.selection != "sorted" and protocol.num_reference is not None
        if stored.foreign:
            note(
                f"{options['reference']}: statistics of another tool, of {stored.moments.n} clips; nothing in it says "
                "which clips, network and protocol they are of",
                options["quiet"],
            )
        elif stored.seed != options["seed"] and (protocol.start == "random" or drawn):
            note(
                f"{options['reference']} was drawn with --seed {stored.seed}, the samples are with {options['seed']}",
                options["quiet"],
            )
    return Opened(options=options, device=device, protocol=protocol, sources=sources, backbone=backbone, remarks=warn)


def judge_warnings(backbone, options):
    """Warnings of a judge whose features the samples' model was trained with; InputError unless that is allowed."""
    known = {name: "--trained-with" for name in options.get("trained_with") or ()}
    manifest = Path(options["samples"], "samples.json")
    if manifest.is_file():
        known |= dict.fromkeys(_trained_with(manifest), str(manifest))
    for name, source in known.items():
        if _family(name) == _family(backbone):
            text = f"the samples' model was trained with features of {name} ({source}), and {backbone} is to judge them"
            if not options.get("allow_trained_judge"):
                raise InputError(
                    f"{text}: its figure would measure the training; --allow-trained-judge computes it "
                    "nevertheless and marks it"
                )
            return (f"{text}: no measure of their quality",)
    return ()


def _trained_with(manifest):
    try:
        names = parse_json(manifest.read_bytes()).get("trained_with") or []
    except (OSError, ValueError, AttributeError):
        return []  # what is wrong with it is said where it is needed
    return [names] if isinstance(names, str) else [str(name) for name in names]


def _family(name):
    """What networks of one kind share: videomae:some/folder, VideoMAE-v2 → videomae; i3d-kinetics400 → i3d."""
    word = re.sub("[^a-z0-9]", "", name.partition(":")[0].lower())
    return next((family for family in FAMILIES if word.startswith(family)), word)


def open_source(role, protocol, options):
    """`Statistics` where the reference is a file of them, else a ClipSource."""
    if role == "reference" and is_statistics(options[role]):
        return Statistics.load(options[role], protocol.num_reference)
    return open_clips(options[role], protocol, role=role, **take_reading(options, role))


def check_dimension(stored, backbone, where):
    """Raise InputError where `Statistics` have another number of features than the network makes."""
    if stored.moments.dimension != backbone.feature_dim:
        raise InputError(
            f"{where} is of {stored.moments.dimension} features, {backbone.name} makes "
            f"{backbone.feature_dim}: another network made it; --backbone says which"
        )


def remarks_on_copies(sources):
    """Texts on clips that are in a set more than once, or in both; sources: {role: ClipSource}, after reading."""
    digests = {role: source.digests for role, source in sources.items()}
    remarks = []
    for role, all_of_them in digests.items():
        copies = len(all_of_them) - len(set(all_of_them))
        if copies * MANY_COPIES >= len(all_of_them):
            remarks.append(f"{copies} of {len(all_of_them)} {role} clips equal another one of them, pixel for pixel")
    if len(digests) == 2 and (both := set(digests["samples"]) & set(digests["reference"])):
        same = sum(digest in both for digest in digests["samples"])
        remarks.append(f"{same} of {len(digests['samples'])} samples are reference clips too, pixel for pixel")
    return tuple(remarks)


def open_backbone(protocol, options, device, per_frame=False):
    """The backbone that the protocol and the options name; InputError where it cannot see the protocol's clips."""
    name = backbone_name(protocol.backbone)
    where = f"protocol {protocol.label}"
    if name in KINDS and protocol.frames is not None and not per_frame:
        check_frames(KINDS[name], protocol.frames, where)  # before the weights are missed
    backbone = load_backbone(
        name,
        weights=options["weights"],
        unverified=options["unverified"],
        device=device,
        precision=options["precision"],
        # a protocol states the epsilon of the network it was published with, which is always I3D
        bn_epsilon=protocol.bn_epsilon if name == "i3d-kinetics400" else None,
        resize_rule=protocol.backbone_resize,
        c3d_mean=options["c3d_mean"],
    )
    if per_frame:
        return PerFrame(backbone)
    if protocol.frames is not None:
        check_frames(backbone, protocol.frames, where)
    return backbone


def read_side(source, backbone, options):
    """Run the network over a ClipSource, or take what the `Statistics` hold."""
    if isinstance(source, Statistics):
        stored = {
            "statistics": options["reference"],
            "statistics_sha256": sha256_file(options["reference"]),
            "seed": source.seed,
        }
        sources = None if options.get("group_by", "auto") == "none" else source.sources
        return Side(
            moments=source.moments,
            features=source.features,
            probabilities=None,
            summary={**source.source, **stored},
            sources=sources,
        )
    source.min_frames, source.shared = backbone.min_frames, True
    reading = {"batch": options["batch"], "quiet": options["quiet"], "cache": open_cache(backbone, options)}
    if _shards and reading["cache"].for_calls(call_size(backbone, options["batch"])).folder.name not in _caches:
        raise InputError(
            "the shards were made on another kind of processor, or with other libraries or weights than "
            "are here, and features differ by that: run hpdm-eval merge where they were made"
        )
    if isinstance(backbone, PerFrame):
        return Side(
            moments=extract_moments(source, backbone, **reading),
            features=None,
            probabilities=None,
            summary=source.summary(),
        )
    extracted = extract_features(source, backbone, **reading)
    return Side(
        moments=Moments.of(extracted.features),
        features=extracted.features,
        probabilities=extracted.probabilities,
        summary=source.summary(),
        sources=sources_of(extracted.names, options.get("group_by", "auto"), source.settings.rule.clips),
    )
