"""Seams of samples from a tiled sampler: how it tiled them, and the record of what its borders show."""

import math
import operator
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpdm.support.errors import InputError
from hpdm.support.files import parse_json
from hpdm_eval.clips.coding import Codings
from hpdm_eval.clips.selection import sources_of
from hpdm_eval.clips.source import Clip
from hpdm_eval.evaluation.pixels import measure_clips, pixel_record
from hpdm_eval.evaluation.settings import Evaluation, Place
from hpdm_eval.metrics.score_tests import FEWEST_CLIPS, LEVEL, TOLERANCE
from hpdm_eval.metrics.seam_contrasts import AXES
from hpdm_eval.metrics.seam_moves import settle_lattices
from hpdm_eval.metrics.seam_tests import PooledSeams, SeamFigure, judge_seams, mean_profile, pool_seams
from hpdm_eval.metrics.seams import ClipSeams, Lattice, measure_clip, parse_patch, rescore, seam_lattices
from hpdm_eval.protocols import Protocol
from hpdm_eval.records.record import Record

MANIFEST = "samples.json"
WORST = 10
WEAK = ("a step of one", "fewer than")  # reasons that more clips help against, not a reference

Size = tuple[int, int, int]  # frames, height, width


@dataclass(frozen=True, kw_only=True)
class TilingPlan:
    """How the samples were tiled."""

    patch: Size  # on the finest level
    overlap: str
    levels: int  # of the pyramid; level 0 is a single tile
    lossless: bool
    source: str  # where this is known from
    split: str = AXES  # axes that levels double
    canvas: Size = (1, 1, 1)  # how many times as large as in training the samples are


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedTiling:
    """The seams of a set of clips."""

    record: Record
    clips: list[ClipSeams]
    reference: list[ClipSeams] | None
    lattices: Sequence[Lattice]  # settled: moved for comparison as fits the clips
    figures: list[SeamFigure]
    pooled: PooledSeams


def evaluate_seams(evaluation: Evaluation, options: Mapping[str, Any]) -> Record:
    """The Record of seams. options: "patch" (text or three numbers), "overlap", "levels" and "lossless" of `find_plan`.

    Raises InputError, as `find_plan` and `judge_tiling` do.
    """
    plan = find_plan(evaluation.samples, **{key: options[key] for key in ("patch", "overlap", "levels", "lossless")})
    return judge_tiling(evaluation, plan).record


def judge_tiling(evaluation: Evaluation, plan: TilingPlan) -> JudgedTiling:
    """Read the clips and judge the borders of a plan; the excess is over the reference's where there is one.

    Raises InputError for a protocol that moves the borders, for patches too small and for clips that hold no border.
    """
    started = time.time()
    protocol = evaluation.protocol
    _check_cut(protocol, plan)
    tiled = max(plan.levels - 1, 1) if max(plan.canvas) == 1 else plan.levels - 1
    lattices = seam_lattices(plan.patch, plan.overlap, tiled, plan.lossless, plan.split, plan.canvas)
    if not lattices:
        raise InputError(f"patches of {size_text(plan.patch)} are too small to look for their borders")
    clips, summary = _measure_set(evaluation, "samples", lattices)
    real, real_summary = None, None
    if evaluation.reference is not None:
        real, real_summary = _measure_set(evaluation, "reference", lattices)
    resized = protocol.resolution is not None
    settled = settle_lattices(clips, lattices, resized)
    clips = [rescore(clip, settled) for clip in clips]
    real = [rescore(clip, settled) for clip in real] if real else real
    figures = judge_seams(clips, settled, reference=real, seed=evaluation.seed, resized=resized)
    if not figures:
        raise InputError(
            f"no clip of {evaluation.samples} is larger than a patch of {size_text(plan.patch)}: no borders to look at"
        )
    pooled = pool_seams(clips, settled, real)
    largest = max(figures, key=lambda figure: figure.excess)
    record = pixel_record(
        "seams",
        evaluation,
        _settings(plan),
        started=started,
        value=pooled.value,
        ci95=pooled.ci95,
        unit="log contrast",
        higher_is_better=False,
        num_samples=summary["clips"],
        num_reference=real_summary and real_summary["clips"],
        samples=summary,
        reference=real_summary,
        details=tuple(figure.to_dict() for figure in figures),
        warnings=list(_warnings(figures, settled)),
        extra={
            "pooled_over": [{"axis": axis, "period": period} for axis, period in pooled.over],
            "largest": {key: largest.to_dict()[key] for key in ("axis", "period", "statistic", "excess", "ci95")},
            "worst": worst_clips(clips),
            "profiles": phase_profiles(clips, figures),
        },
    )
    return JudgedTiling(record=record, clips=clips, reference=real, lattices=settled, figures=figures, pooled=pooled)


def find_plan(
    samples: Place,
    patch: str | Sequence[int] | None = None,
    overlap: str | None = None,
    levels: int | None = None,
    lossless: bool = False,
) -> TilingPlan:
    """The plan of a samples folder: its samples.json, with what is given here over it.

    patch: "TxHxW" or the three numbers. Raises InputError where the plan is known from neither.
    """
    given: dict[str, Any] = {
        "patch": parse_patch(patch) if patch else None,
        "overlap": overlap,
        "levels": levels,
        "lossless": lossless or None,
    }
    given = {key: value for key, value in given.items() if value is not None}
    path = Path(samples) / MANIFEST
    if path.is_file():
        try:
            manifest = parse_json(path.read_bytes())
            plan = _sampled_plan(manifest)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if "patch" not in given:
                raise InputError(f"{path} does not say how the samples were tiled; give --patch") from error
        else:
            changed = sorted(key for key, value in given.items() if value != getattr(plan, key))
            if plan.levels == 1 and max(plan.canvas) == 1 and "patch" not in given:
                raise InputError(f"{samples} was sampled on one level, as a single patch: there are no borders")
            if "patch" in changed:  # another tiling than the sampler's, and none of its own holds for it
                plan = replace(plan, levels=2, split=AXES, canvas=(1, 1, 1))
            source = f"{MANIFEST}, but {', '.join(changed)} as given" if changed else MANIFEST
            return replace(plan, source=source, **given)
    if "patch" not in given:
        raise InputError(f"{samples} holds no {MANIFEST} that says how it was tiled: give --patch, such as 16x64x64")
    return TilingPlan(**{"overlap": "none", "levels": 2, "lossless": False, **given}, source="as given")


def stored_losslessly(samples: Place) -> bool:
    """Whether the samples.json of a folder says that no codec was used; False where there is none."""
    try:
        return parse_json((Path(samples) / MANIFEST).read_bytes())["settings"]["format"] == "npy"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def phase_profiles(clips: list[ClipSeams], figures: list[SeamFigure]) -> list[dict[str, Any]]:
    """The mean contrast with each lattice moved aside by up to half its period, for plots: list of flat objects.

    [{"axis", "period", "statistic", "first": the first move, "values": [a number for every move]}, ...]; a value is
    null where no clip has that move.
    """
    profiles = []
    for figure in figures:
        whole, half = mean_profile(clips, (figure.axis, figure.period, figure.statistic)), figure.period // 2
        middle = whole[figure.period - 1 - half : figure.period + half]
        profiles.append(
            {
                "axis": figure.axis,
                "period": figure.period,
                "statistic": figure.statistic,
                "first": -half,
                "values": [round(float(value), 4) if math.isfinite(value) else None for value in middle],
            }
        )
    return profiles


def worst_clips(clips: list[ClipSeams], count: int = WORST) -> list[dict[str, Any]]:
    """The clips with the largest score on any lattice: list of {"name", "axis", "period", "statistic", "score"}."""
    entries = []
    for clip in clips:
        if clip.scores:
            (axis, period, statistic), score = max(clip.scores.items(), key=lambda item: item[1])
            entries.append({"name": clip.name, "axis": axis, "period": period, "statistic": statistic, "score": score})
    return sorted(entries, key=lambda entry: -entry["score"])[:count]


def size_text(numbers: Sequence[int]) -> str:
    """(16, 64, 64) as "16x64x64"."""
    return "x".join(map(str, numbers))


def _measure_set(
    evaluation: Evaluation, role: str, lattices: Sequence[Lattice]
) -> tuple[list[ClipSeams], dict[str, Any]]:
    """The clips of a role, with the videos they come from where several come from one, and the record's entry."""
    codings, protocol = Codings(evaluation.path(role)), evaluation.protocol

    def measure(clip: Clip) -> ClipSeams:
        return measure_clip(clip.pixels, lattices, clip.name, codings.of(clip.name))

    clips, summary = measure_clips(evaluation, role, measure)
    each = protocol.samples_clips_per_video if role == "samples" else protocol.clips_per_video
    sources = sources_of([clip.name for clip in clips], evaluation.group_by, each or 1)
    if sources is None:
        return clips, summary
    clips = [replace(clip, source=source) for clip, source in zip(clips, sources)]
    return clips, {**summary, "sources": len(set(sources))}


def _settings(plan: TilingPlan) -> dict[str, Any]:
    """The record's settings of a plan; what is usual is left out, so that hashes of older records hold."""
    unusual: dict[str, Any] = {"split": plan.split} if plan.split != AXES else {}
    unusual |= {"canvas": list(plan.canvas)} if max(plan.canvas) > 1 else {}
    return {
        "patch": list(plan.patch),
        "overlap": plan.overlap,
        "levels": plan.levels,
        "lossless": plan.lossless,
        **unusual,
        "plan": plan.source,
        "level": LEVEL,
        "tolerance": TOLERANCE,
    }


def _sampled_plan(manifest: Mapping[str, Any]) -> TilingPlan:
    """The plan that hpdm-sample wrote down; before it named patch and factors, every level doubled every axis."""
    settings = manifest["settings"]
    levels, canvas = operator.index(settings["levels"]), _three(settings.get("canvas") or (1, 1, 1))
    factors = _three(manifest.get("factors") or [1 << (levels - 1)] * 3)
    patch = _three(
        manifest.get("patch")
        or [
            size // (times * factor)
            for size, times, factor in zip(manifest["resolution"], canvas, factors, strict=True)
        ]
    )
    split = "".join(axis for axis, factor in zip(AXES, factors) if factor > 1 or levels == 1)
    return TilingPlan(
        patch=patch,
        overlap=settings["overlap"],
        levels=levels,
        split=split,
        canvas=canvas,
        lossless=settings["format"] == "npy",
        source=MANIFEST,
    )


def _three(numbers: Sequence[int]) -> Size:
    numbers = tuple(map(operator.index, numbers))
    if len(numbers) != 3 or min(numbers) < 1:
        raise ValueError(f"{numbers} are not three positive numbers")
    return numbers


def _check_cut(protocol: Protocol, plan: TilingPlan) -> None:
    """Borders are counted from a sample's first frame and corner: refuse to look for them elsewhere."""
    if protocol.samples_frames != "first" or protocol.samples_stride != 1 or protocol.samples_fps is not None:
        raise InputError(
            "seams between frames are looked for from a clip's first frame on, in every frame: "
            "leave out --start, --samples-frames, --stride and --fps"
        )
    if plan.source.startswith(MANIFEST) and (protocol.crop != "none" or protocol.resolution is not None):
        raise InputError(f"{MANIFEST} gives the borders in the samples' own pixels: leave out --crop and --resolution")


def _warnings(figures: list[SeamFigure], lattices: Sequence[Lattice]) -> Iterator[str]:
    judged = {(figure.axis, figure.period) for figure in figures}
    for lattice in lattices:
        if (lattice.axis, lattice.period) not in judged:
            yield f"axis {lattice.axis}, period {lattice.period}: no clip is large enough to hold and compare a border"
    reasons: dict[str, dict[str, None]] = {}
    for figure in figures:
        if figure.reason is not None:
            reasons.setdefault(figure.reason, {})[f"{figure.axis} {figure.period}"] = None
    for reason, names in reasons.items():
        advice = "" if reason.startswith(WEAK) else "; give --reference with clips encoded and read alike"
        yield f"no verdict on {', '.join(names)}: {reason}{advice}"
    fewest = min(figure.clips for figure in figures)
    if fewest < 8:
        yield f"only {fewest} clips: {'too few for a reliable' if fewest >= FEWEST_CLIPS else 'no'} verdict"
