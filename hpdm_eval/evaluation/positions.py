"""Tiles of samples by their position in the video, as a record: are the corners as good as the inside?"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm_eval.backbones.backbone import check_frames
from hpdm_eval.clips.jobs import clip_digest
from hpdm_eval.clips.selection import sources_of
from hpdm_eval.clips.source import Clip, ClipSource
from hpdm_eval.evaluation.comparison import judge_warnings, open_backbone, open_cache, open_set
from hpdm_eval.evaluation.seams import find_plan, size_text
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.features.extraction import extract_features
from hpdm_eval.features.reference_statistics import is_statistics
from hpdm_eval.metrics.frechet import frechet_distance
from hpdm_eval.metrics.positions import POSITIONS, cut_tile, draw_tiles, seams_by_position
from hpdm_eval.metrics.seam_tests import mean_t_interval
from hpdm_eval.metrics.seams import Lattice, seam_lattices
from hpdm_eval.metrics.uncertainty import FEWEST_GROUPS, GROUPS, grouped_jackknife, jackknife_errors
from hpdm_eval.protocols import Protocol
from hpdm_eval.records.record import Record, make_record
from hpdm_eval.support.caught import caught_warnings
from hpdm_eval.support.threads import one_thread

Interval = tuple[float, float]
SeamsByPosition = dict[tuple[str, str], dict[str, float]]  # {(axis, statistic): {position: excess}}


def evaluate_positions(evaluation: Evaluation, options: Mapping[str, Any]) -> Record:
    """The Record of positions: by how much the FVD of tiles at the corners is above that of tiles inside.

    options: "patch" (text or three numbers), "overlap" and "lossless" of `find_plan`; "tiles", which are drawn from
    each position of a clip. Raises InputError for a reference of statistics, and for patches that the network cannot
    see or the clips cannot hold.
    """
    started = time.time()
    device, protocol = choose_device(evaluation.device), evaluation.protocol
    plan = find_plan(evaluation.samples, options["patch"], options["overlap"], None, options["lossless"])
    if is_statistics(evaluation.path("reference")):
        raise InputError(f"{evaluation.reference} holds statistics of whole clips; tiles need the clips themselves")
    lattices = seam_lattices(plan.patch, plan.overlap, 1, plan.lossless, plan.split)
    backbone = open_backbone(evaluation, device)
    check_frames(backbone, plan.patch[0], f"tiles of {size_text(plan.patch)}")
    remarks = judge_warnings(evaluation) + evaluation.limit_remarks
    sides, summaries = {}, {}
    for role in ("samples", "reference"):
        source = open_set(role, evaluation)
        tiles = TileSource(source, plan.patch, options["tiles"], evaluation.seed, lattices)
        extracted = extract_features(
            tiles, backbone, batch=evaluation.batch, quiet=evaluation.quiet, cache=open_cache(backbone, evaluation)
        )
        sides[role], summaries[role] = TileFeatures(tiles=tiles, features=extracted.features), source.summary()
    with caught_warnings() as said, one_thread():
        figures = position_figures(
            sides["samples"], sides["reference"], protocol, seed=evaluation.seed, group_by=evaluation.group_by
        )
    return make_record(
        started=started,
        device=device,
        metric="positions",
        value=figures.value,
        ci95=figures.ci95,
        unit="FVD",
        higher_is_better=False,
        protocol={**protocol.to_dict(), "hash": protocol.hash()},
        num_samples=summaries["samples"]["clips"],
        num_reference=summaries["reference"]["clips"],
        samples=summaries["samples"],
        reference=summaries["reference"],
        backbone=backbone.describe(),
        seed=evaluation.seed,
        details=tuple(figures.details),
        warnings=tuple(dict.fromkeys([*remarks, *said()])),
        extra={
            "settings": {
                "patch": list(plan.patch),
                "overlap": plan.overlap,
                "tiles": options["tiles"],
                "split": plan.split,
            }
        }
        | evaluation.limit_entry,
    )


class TileSource:
    """Tiles of the clips of a ClipSource as clips of their own; what tile is of which clip and position is kept.

    source: a ClipSource; patch: (frames, rows, columns); count: tiles of each position and clip; lattices: see
    `seams_by_position`. Iterating yields `Clip`s; afterwards `names` are the clips, `owners` the number of each tile's
    clip, `places` its position, and `seams` a dict per clip.
    """

    def __init__(
        self, source: ClipSource, patch: Sequence[int], count: int, seed: int, lattices: Sequence[Lattice]
    ) -> None:
        self.source, self._patch, self._count, self._seed, self._lattices = source, patch, count, seed, lattices
        self._clear()

    def _clear(self) -> None:
        self.names: list[str] = []
        self.owners: list[int] = []
        self.places: list[str] = []
        self.seams: list[SeamsByPosition] = []

    def __len__(self) -> int:
        return len(self.source) * self._count * len(POSITIONS)

    def __iter__(self) -> Iterator[Clip]:
        self._clear()
        for clip in self.source:
            try:
                drawn = draw_tiles(clip.pixels.shape[:3], self._patch, self._count, clip.name, self._seed)
            except InputError as error:
                raise InputError(f"{clip.name}: {error}") from error
            self.seams.append(seams_by_position(clip.pixels, self._lattices))
            self.names.append(clip.name)
            for position, starts in drawn.items():
                for start in starts:
                    tile = cut_tile(clip.pixels, start, self._patch)
                    self.owners.append(len(self.names) - 1)
                    self.places.append(position)
                    yield Clip(
                        name=f"{clip.name}@{','.join(map(str, start))}",
                        video=tile,
                        digest=clip_digest(tile),
                        label=clip.label,
                        position=len(self.owners) - 1,
                    )


@dataclass(frozen=True, kw_only=True, eq=False)
class TileFeatures:
    """The tiles of one side, iterated to the end, and their features."""

    tiles: TileSource
    features: np.ndarray  # float32 [N, D]

    def by_position(self) -> dict[str, np.ndarray]:
        """{position: features [n, D]} of the positions that there are, inside first."""
        places = np.array(self.tiles.places)
        return {name: self.features[places == name] for name in POSITIONS if name in self.tiles.places}


@dataclass(frozen=True, kw_only=True, eq=False)
class PositionFigures:
    """Distances and seams by position."""

    value: float  # FVD of the outermost position less that of the innermost
    ci95: Interval | None
    details: list[dict[str, Any]] = field(default_factory=list)


def position_figures(
    samples: TileFeatures, reference: TileFeatures, protocol: Protocol, *, seed: int = 0, group_by: str = "auto"
) -> PositionFigures:
    """FVD and seams of samples by position; protocol: its ddof and square root hold. Raises InputError."""
    own, real = samples.by_position(), reference.by_position()
    shared = [name for name in POSITIONS if name in own and name in real]
    owners, places = np.array(samples.tiles.owners), np.array(samples.tiles.places)
    clips = {name: owners[places == name] for name in shared}
    known = sources_of(samples.tiles.names, group_by, 1)
    sources = np.array(known if known is not None else [f"clip {n}" for n in range(len(samples.tiles.names))])
    enough = len(set(sources)) >= FEWEST_GROUPS and min(map(len, clips.values())) >= 2 * GROUPS
    common: dict[str, Any] = {"ddof": protocol.ddof, "root": protocol.root}
    details = []
    for name in shared:
        distance, interval = frechet_distance(own[name], real[name], **common), None
        if enough:
            jackknife = grouped_jackknife(
                own[name], real[name], ddof=protocol.ddof, seed=seed, sources=sources[clips[name]].tolist()
            )
            half = jackknife.half_width()
            interval = [max(distance - half, 0.0), distance + half]
        details.append(
            {
                "figure": "fvd",
                "position": name,
                "value": distance,
                "ci95": interval,
                "tiles": len(own[name]),
                "reference_tiles": len(real[name]),
            }
        )
    value, ci95 = _corner_less_inside(own, real, clips, sources, shared, common, seed, enough)
    details += _seam_details(samples.tiles.seams, reference.tiles.seams)
    return PositionFigures(value=value, ci95=ci95, details=details)


def _corner_less_inside(
    own: Mapping[str, np.ndarray],
    real: Mapping[str, np.ndarray],
    clips: Mapping[str, np.ndarray],
    sources: np.ndarray,
    shared: Sequence[str],
    common: Mapping[str, Any],
    seed: int,
    enough: bool,
) -> tuple[float, Interval | None]:
    """(by how much the outermost position's FVD is above the innermost's, its 95 % interval or None)."""
    inside, outside = shared[0], shared[-1]
    if inside == outside:
        raise InputError(f"all tiles of the clips are at one position, {inside}: nothing to compare")

    def difference(kept: np.ndarray | None = None) -> float:
        distances = []
        for name in (inside, outside):
            tiles = own[name] if kept is None else own[name][np.isin(clips[name], kept)]
            distances.append(frechet_distance(tiles, real[name], **common))
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


def _seam_details(own: Sequence[SeamsByPosition], real: Sequence[SeamsByPosition]) -> list[dict[str, Any]]:
    """Excess of steps at borders of each position over that of the real clips; own, real: a dict per clip."""
    details = []
    for axis, statistic in dict.fromkeys(key for seams in own for key in seams):
        for name in POSITIONS:
            ours, theirs = (
                np.array([seams[axis, statistic][name] for seams in side if name in seams.get((axis, statistic), {})])
                for side in (own, real)
            )
            if len(ours) and len(theirs):
                interval = mean_t_interval(ours - theirs.mean())
                details.append(
                    {
                        "figure": "seams",
                        "position": name,
                        "axis": axis,
                        "statistic": statistic,
                        "value": float(ours.mean() - theirs.mean()),
                        "ci95": interval and list(interval),
                        "value_reference": float(theirs.mean()),
                    }
                )
    return details
