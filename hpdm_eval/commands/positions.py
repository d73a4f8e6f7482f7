"""`hpdm-eval positions`: FVD and seams at corners, edges, faces and the inside of the video."""

import json
import time
import warnings

import click
import numpy as np
from scipy import stats

from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm_eval.backbones.backbone import check_frames
from hpdm_eval.clips.jobs import clip_digest
from hpdm_eval.clips.selection import sources_of
from hpdm_eval.clips.source import Clip
from hpdm_eval.commands.options import take_protocol
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.commands.seams import find_plan
from hpdm_eval.evaluation.comparison import announce, judge_warnings, judging_options, open_backbone, open_source
from hpdm_eval.evaluation.pixels import aligned
from hpdm_eval.features.cache import open_cache
from hpdm_eval.features.extraction import extract_features
from hpdm_eval.features.reference_statistics import is_statistics
from hpdm_eval.metrics.frechet import frechet_distance
from hpdm_eval.metrics.positions import POSITIONS, cut_tile, draw_tiles, seams_by_position
from hpdm_eval.metrics.seam_tests import mean_t_interval
from hpdm_eval.metrics.seams import OVERLAPS, seam_lattices
from hpdm_eval.metrics.uncertainty import FEWEST_GROUPS, GROUPS, grouped_jackknife, jackknife_errors
from hpdm_eval.records.labels import format_value
from hpdm_eval.records.record import make_record
from hpdm_eval.report.tables import text_table
from hpdm_eval.support.threads import one_thread

TILES = 4  # of each position and clip


@click.command(cls=RecordedCommand)
@click.option("--patch", metavar="TxHxW", help="Size of the sampler's tiles. [from the samples' samples.json]")
@click.option(
    "--overlap", type=click.Choice(OVERLAPS), help="Axes on which tiles overlap by half. [from samples.json, else none]"
)
@click.option("--lossless", is_flag=True, help="The clips never went through a codec. [from samples.json]")
@click.option(
    "--tiles",
    type=click.IntRange(min=1),
    default=TILES,
    show_default=True,
    help="Tiles that are drawn at random from each position of a clip for FVD.",
)
@judging_options(protocol="native")
def positions(patch, overlap, lossless, tiles, **options):
    """Are the corners of the samples as good as their inside?

    Cuts samples and real clips into tiles of the sampler and compares tiles of the samples with tiles of the real clips
    at the same position: inside, face, edge and corner touch the video's border on 0, 1, 2 and 3 axes. Positions are
    compared with each other and between models; the distances are none of whole videos. Beside FVD there is the excess
    of steps between touching tiles by position, in log units, over that of the real clips. The value is the FVD of the
    corners less that of the inside. It is 0 where both are as good and show as much; where real videos show more in
    the middle than at the border, compare models at one position, not positions of one model.
    """
    started = time.time()
    device, protocol = choose_device(options["device"]), take_protocol(options)
    plan = find_plan(options["samples"], patch, overlap, None, lossless)
    if is_statistics(options["reference"]):
        raise InputError(f"{options['reference']} holds statistics of whole clips; tiles need the clips themselves")
    lattices = seam_lattices(plan.patch, plan.overlap, 1, plan.lossless, plan.split)
    backbone = open_backbone(protocol, options, device)
    check_frames(backbone, plan.patch[0], f"tiles of {_size(plan.patch)}")
    remarks = judge_warnings(protocol.backbone, options)
    sides = {}
    for role in ("samples", "reference"):
        tiled = TileSource(open_source(role, protocol, options), plan.patch, tiles, options["seed"], lattices)
        extracted = extract_features(
            tiled, backbone, batch=options["batch"], quiet=options["quiet"], cache=open_cache(backbone, options)
        )
        sides[role] = tiled, extracted.features, tiled.source.summary()
    with warnings.catch_warnings(record=True) as caught, one_thread():
        warnings.simplefilter("always")
        details, value, ci95 = position_figures(*(sides[role][:2] for role in sides), protocol, options)
    remarks = dict.fromkeys([*remarks, *(str(warning.message) for warning in caught)])
    record = make_record(
        started=started,
        device=device,
        metric="positions",
        value=value,
        ci95=ci95,
        unit="FVD",
        higher_is_better=False,
        protocol={**protocol.to_dict(), "hash": protocol.hash()},
        num_samples=sides["samples"][2]["clips"],
        num_reference=sides["reference"][2]["clips"],
        samples=sides["samples"][2],
        reference=sides["reference"][2],
        backbone=backbone.describe(),
        seed=options["seed"],
        details=tuple(details),
        warnings=tuple(remarks),
        extra={"settings": {"patch": list(plan.patch), "overlap": plan.overlap, "tiles": tiles, "split": plan.split}},
    )
    if options["as_json"]:
        click.echo(json.dumps(record.to_dict(), ensure_ascii=False))
    else:
        click.echo("\n".join([text_table([record]), "", *_table(details)]))
    announce([record], options)
    return record


class TileSource:
    """Tiles of the clips of a ClipSource as clips of their own; what tile is of which clip and position is kept.

    source: a ClipSource; patch: (frames, rows, columns); count: tiles of each position and clip; lattices: see
    `seams_by_position`. Iterating yields `Clip`s; afterwards `names` are the clips, `owners` the number of each tile's
    clip, `found` its position, and `seams` a dict per clip.
    """

    def __init__(self, source, patch, count, seed, lattices):
        self.source, self._patch, self._count, self._seed, self._lattices = source, patch, count, seed, lattices
        self.names, self.owners, self.found, self.seams = [], [], [], []

    def __len__(self):
        return len(self.source) * self._count * len(POSITIONS)

    def __iter__(self):
        self.names, self.owners, self.found, self.seams = [], [], [], []
        for clip in self.source:
            try:
                drawn = draw_tiles(clip.video.shape[:3], self._patch, self._count, clip.name, self._seed)
            except InputError as error:
                raise InputError(f"{clip.name}: {error}") from error
            self.seams.append(seams_by_position(clip.video, self._lattices))
            self.names.append(clip.name)
            for position, starts in drawn.items():
                for start in starts:
                    tile = cut_tile(clip.video, start, self._patch)
                    self.owners.append(len(self.names) - 1)
                    self.found.append(position)
                    yield Clip(
                        name=f"{clip.name}@{','.join(map(str, start))}",
                        video=tile,
                        digest=clip_digest(tile),
                        label=clip.label,
                        position=len(self.owners) - 1,
                    )


def position_figures(samples, reference, protocol, options):
    """(details, value, ci95) of two pairs of (`TileSource`, features [N, D])."""
    seed, common = options["seed"], {"ddof": protocol.ddof, "root": protocol.root}
    parts = [
        {name: features[np.array(source.found) == name] for name in POSITIONS if name in source.found}
        for source, features in (samples, reference)
    ]
    shared = [name for name in POSITIONS if name in parts[0] and name in parts[1]]
    clips = {name: np.array(samples[0].owners)[np.array(samples[0].found) == name] for name in shared}
    known = sources_of(samples[0].names, options.get("group_by", "auto"), 1)
    sources = np.array(known if known is not None else [f"clip {number}" for number in range(len(samples[0].names))])
    enough = len(set(sources)) >= FEWEST_GROUPS and min(map(len, clips.values())) >= 2 * GROUPS
    details = []
    for name in shared:
        entry = {
            "figure": "fvd",
            "position": name,
            "value": frechet_distance(parts[0][name], parts[1][name], **common),
            "ci95": None,
            "tiles": len(parts[0][name]),
            "reference_tiles": len(parts[1][name]),
        }
        if enough:
            jackknife = grouped_jackknife(
                parts[0][name], parts[1][name], ddof=protocol.ddof, seed=seed, sources=sources[clips[name]].tolist()
            )
            half = jackknife.half_width()
            entry["ci95"] = [max(entry["value"] - half, 0.0), entry["value"] + half]
        details.append(entry)
    value, ci95 = _corner_less_inside(parts, clips, sources, shared, common, seed, enough)
    for axis, statistic in dict.fromkeys(key for seams in samples[0].seams for key in seams):
        for name in POSITIONS:
            own, real = (
                np.array(
                    [seams[axis, statistic][name] for seams in source.seams if name in seams.get((axis, statistic), {})]
                )
                for source in (samples[0], reference[0])
            )
            if len(own) and len(real):
                interval = mean_t_interval(own - real.mean())
                details.append(
                    {
                        "figure": "seams",
                        "position": name,
                        "axis": axis,
                        "statistic": statistic,
                        "value": float(own.mean() - real.mean()),
                        "ci95": interval and list(interval),
                        "value_reference": float(real.mean()),
                    }
                )
    return details, value, ci95


def _corner_less_inside(parts, clips, sources, shared, common, seed, enough):
    """(by how much the outermost position's FVD is above the innermost's, its 95 % interval or None)."""
    inside, outside = shared[0], shared[-1]
    if inside == outside:
        raise InputError(f"all tiles of the clips are at one position, {inside}: nothing to compare")

    def difference(kept=None):
        distances = []
        for name in (inside, outside):
            own = parts[0][name] if kept is None else parts[0][name][np.isin(clips[name], kept)]
            distances.append(frechet_distance(own, parts[1][name], **common))
        return distances[1] - distances[0]

    value = difference()
    if not enough or len(sources) < 2 * GROUPS:
        return value, None
    groups = None if len(set(sources)) == len(sources) else sources.tolist()
    error = float(
        jackknife_errors(lambda rows: np.array([difference(rows)]), len(sources), seed=seed, sources=groups)[0]
    )
    half = float(stats.t.ppf(0.975, GROUPS - 1)) * error
    return value, (value - half, value + half)


def _table(details):
    rows = []
    for entry in details:
        ci95 = entry["ci95"]
        what = entry["figure"] if entry["figure"] == "fvd" else f"seams {entry['axis']} {entry['statistic']}"
        rows.append(
            (
                what,
                entry["position"],
                format_value(entry["value"]),
                "-" if ci95 is None else "[{}, {}]".format(*map(format_value, ci95)),
                entry.get("tiles", ""),
            )
        )
    return aligned(("figure", "position", "value", "95 %", "tiles"), rows)


def _size(numbers):
    return "x".join(map(str, numbers))
