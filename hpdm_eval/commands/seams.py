"""`hpdm-eval seams`: steps at the borders of the patches that a video was sampled from."""

import math
import operator
import time
from dataclasses import dataclass, replace
from pathlib import Path

import click

from hpdm.support.console import OutputFolder
from hpdm.support.errors import InputError
from hpdm.support.files import parse_json
from hpdm.support.progress import note
from hpdm_eval.clips.coding import Codings
from hpdm_eval.clips.selection import sources_of
from hpdm_eval.commands.options import take_protocol
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.pixels import aligned, measure_clips, pixel_options, pixel_record, show_record
from hpdm_eval.metrics.score_tests import FEWEST_CLIPS, LEVEL, TOLERANCE
from hpdm_eval.metrics.seam_contrasts import AXES
from hpdm_eval.metrics.seam_moves import settle_lattices
from hpdm_eval.metrics.seam_tests import PooledSeams, SeamFigure, judge_seams, mean_profile, pool_seams
from hpdm_eval.metrics.seams import OVERLAPS, ClipSeams, Lattice, measure_clip, parse_patch, rescore, seam_lattices
from hpdm_eval.records.record import Record

MANIFEST = "samples.json"
WORST = 10
WEAK = ("a step of one", "fewer than")  # reasons that more clips help against, not a reference


@dataclass(frozen=True, kw_only=True)
class TilingPlan:
    """How the samples were tiled."""

    patch: tuple[int, int, int]  # frames, height, width, on the finest level
    overlap: str
    levels: int  # of the pyramid; level 0 is a single tile
    lossless: bool
    source: str  # where this is known from
    split: str = AXES  # axes that levels double
    canvas: tuple[int, int, int] = (1, 1, 1)  # how many times as large as in training the samples are


@click.command(cls=RecordedCommand)
@click.option(
    "--samples",
    required=True,
    type=click.Path(),
    metavar="DIR|FILE",
    help="Clips to judge: videos, folders of frames, arrays, or a zip of them.",
)
@click.option(
    "--reference",
    type=click.Path(),
    metavar="DIR|FILE",
    help="Real clips of the same size and encoding: seams are then counted in excess of theirs.",
)
@click.option("--patch", metavar="TxHxW", help="Size of the sampler's tiles. [from the samples' samples.json]")
@click.option(
    "--overlap", type=click.Choice(OVERLAPS), help="Axes on which tiles overlap by half. [from samples.json, else none]"
)
@click.option(
    "--levels",
    type=click.IntRange(min=1),
    help="Levels of the sampler's pyramid; tiles of coarser levels are looked for too. "
    "[from samples.json, else 2: the finest tiles alone]",
)
@click.option(
    "--lossless",
    is_flag=True,
    help="The clips never went through a codec or JPEG, so there are no blocks to mistake for seams. "
    "[from samples.json]",
)
@click.option(
    "--group-by",
    default="auto",
    show_default=True,
    metavar="auto|none|folder|REGEX",
    help="Which clips come from one video, and are no independent draws in intervals and tests: auto knows "
    "UCF-101's groups, REGEX is searched in the names.",
)
@click.option("--plots", type=OutputFolder(), metavar="DIR", help="Write seams-profile.png and seams-map.png here.")
@pixel_options
def seams(samples, reference, patch, overlap, levels, lossless, plots, **options):
    """Are there steps where the patches of a tiled sampler meet?

    Each lattice of patch borders is compared with the same lattice moved aside, by multiples of the codec's blocks,
    also of those that the clips had before they were resized. An excess of 0.1 is a contrast 10 % above that of the
    comparable positions; up to 0.05 is not called a seam, since that much is found in real video. The step statistic
    sees any mismatch of neighbouring patches, the coherent-step statistic offsets of brightness far below the texture.
    Axes: w, h and f, between frames. "no" is said where a step of one grey level, put in between the tiles of the same
    clips, would be found; "no verdict" where it would not, or where a lattice cannot be told from what codecs leave:
    the warning names the reason. The headline is the mean excess over all axes, of the finest tiles.
    """
    protocol = take_protocol(options)
    plan = find_plan(samples, patch, overlap, levels, lossless)
    note(
        f"patches of {_size(plan.patch)}, overlap {plan.overlap}, {plan.levels} levels ({plan.source})",
        options["quiet"],
    )
    judged = judge_tiling(samples, protocol, plan, options, reference)
    if plots:
        from hpdm_eval.report.seam_plots import write_seam_plots  # matplotlib takes a second to import

        for path in write_seam_plots(plots, judged.clips, judged.lattices, judged.figures, reference=judged.reference):
            note(f"plot: {path}", options["quiet"])
    worst = judged.record.extra["worst"]
    return show_record(
        judged.record,
        options,
        [
            "",
            *_table(judged.figures),
            "",
            "clips with the largest scores:",
            *aligned(
                ("name", "axis", "period", "statistic", "score"),
                [(*list(entry.values())[:-1], f"{entry['score']:.3f}") for entry in worst],
            ),
        ],
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedTiling:
    """The seams of a set of clips."""

    record: Record
    clips: list[ClipSeams]
    reference: list[ClipSeams] | None
    lattices: list[Lattice]  # settled: moved for comparison as fits the clips
    figures: list[SeamFigure]
    pooled: PooledSeams


def judge_tiling(samples, protocol, plan, options, reference=None) -> JudgedTiling:
    """Read the clips and judge the borders of a TilingPlan; options: those of `pixel_options`. Raises InputError."""
    started = time.time()
    _check_cut(protocol, plan)
    tiled = max(plan.levels - 1, 1) if max(plan.canvas) == 1 else plan.levels - 1
    lattices = seam_lattices(plan.patch, plan.overlap, tiled, plan.lossless, plan.split, plan.canvas)
    if not lattices:
        raise InputError(f"patches of {_size(plan.patch)} are too small to look for their borders")

    def measured(path, role):
        codings = Codings(path)
        clips, summary = measure_clips(
            path,
            protocol,
            options,
            role,
            lambda clip: measure_clip(clip.video, lattices, clip.name, codings.of(clip.name)),
        )
        each = protocol.samples_clips_per_video if role == "samples" else protocol.clips_per_video
        sources = sources_of([clip.name for clip in clips], options.get("group_by", "auto"), each or 1)
        if sources is None:
            return clips, summary
        return [replace(clip, source=source) for clip, source in zip(clips, sources)], {
            **summary,
            "sources": len(set(sources)),
        }

    clips, summary = measured(samples, "samples")
    real, real_summary = (None, None)
    if reference is not None:
        real, real_summary = measured(reference, "reference")
    resized = protocol.resolution is not None
    lattices = settle_lattices(clips, lattices, resized)
    clips, real = ([rescore(clip, lattices) for clip in side] if side else side for side in (clips, real))
    figures = judge_seams(clips, lattices, reference=real, seed=options["seed"], resized=resized)
    if not figures:
        raise InputError(f"no clip of {samples} is larger than a patch of {_size(plan.patch)}: no borders to look at")
    pooled = pool_seams(clips, lattices, real)
    largest = max(figures, key=lambda figure: figure.excess)
    unusual = {"split": plan.split} if plan.split != AXES else {}
    unusual |= {"canvas": list(plan.canvas)} if max(plan.canvas) > 1 else {}
    record = pixel_record(
        "seams",
        protocol,
        {
            "patch": list(plan.patch),
            "overlap": plan.overlap,
            "levels": plan.levels,
            "lossless": plan.lossless,
            **unusual,
            "plan": plan.source,
            "level": LEVEL,
            "tolerance": TOLERANCE,
        },
        started=started,
        seed=options["seed"],
        value=pooled.value,
        ci95=pooled.ci95,
        unit="log contrast",
        higher_is_better=False,
        num_samples=summary["clips"],
        num_reference=real_summary and real_summary["clips"],
        samples=summary,
        reference=real_summary,
        details=tuple(figure.to_dict() for figure in figures),
        warnings=list(_warnings(figures, lattices, clips, reference)),
        extra={
            "pooled_over": [{"axis": axis, "period": period} for axis, period in pooled.over],
            "largest": {key: largest.to_dict()[key] for key in ("axis", "period", "statistic", "excess", "ci95")},
            "worst": worst_clips(clips),
            "profiles": phase_profiles(clips, figures),
        },
    )
    return JudgedTiling(record=record, clips=clips, reference=real, lattices=lattices, figures=figures, pooled=pooled)


def find_plan(samples, patch=None, overlap=None, levels=None, lossless=False):
    """The TilingPlan of a samples folder: its samples.json, with what is given here over it. Raises InputError."""
    given = {
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


def _sampled_plan(manifest):
    """The TilingPlan that hpdm-sample wrote down; before it named patch and factors, every level doubled every axis."""
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


def _three(numbers):
    numbers = tuple(map(operator.index, numbers))
    if len(numbers) != 3 or min(numbers) < 1:
        raise ValueError(f"{numbers} are not three positive numbers")
    return numbers


def stored_losslessly(samples):
    """Whether the samples.json of a folder says that no codec was used; False where there is none."""
    try:
        return parse_json((Path(samples) / MANIFEST).read_bytes())["settings"]["format"] == "npy"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def phase_profiles(clips, figures):
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


def worst_clips(clips, count=WORST):
    """The clips with the largest score on any lattice: list of {"name", "axis", "period", "statistic", "score"}."""
    entries = []
    for clip in clips:
        if clip.scores:
            (axis, period, statistic), score = max(clip.scores.items(), key=lambda item: item[1])
            entries.append({"name": clip.name, "axis": axis, "period": period, "statistic": statistic, "score": score})
    return sorted(entries, key=lambda entry: -entry["score"])[:count]


def _check_cut(protocol, plan):
    """Borders are counted from a sample's first frame and corner: refuse to look for them elsewhere."""
    if protocol.samples_frames != "first" or protocol.samples_stride != 1 or protocol.samples_fps is not None:
        raise InputError(
            "seams between frames are looked for from a clip's first frame on, in every frame: "
            "leave out --start, --samples-frames, --stride and --fps"
        )
    if plan.source.startswith(MANIFEST) and (protocol.crop != "none" or protocol.resolution is not None):
        raise InputError(f"{MANIFEST} gives the borders in the samples' own pixels: leave out --crop and --resolution")


def _warnings(figures, lattices, clips, reference):
    found = {(figure.axis, figure.period) for figure in figures}
    for lattice in lattices:
        if (lattice.axis, lattice.period) not in found:
            yield f"axis {lattice.axis}, period {lattice.period}: no clip is large enough to hold and compare a border"
    reasons = {}
    for figure in figures:
        if figure.reason is not None:
            reasons.setdefault(figure.reason, {})[f"{figure.axis} {figure.period}"] = None
    for reason, names in reasons.items():
        advice = "" if reason.startswith(WEAK) else "; give --reference with clips encoded and read alike"
        yield f"no verdict on {', '.join(names)}: {reason}{advice}"
    fewest = min(figure.clips for figure in figures)
    if fewest < 8:
        yield f"only {fewest} clips: {'too few for a reliable' if fewest >= FEWEST_CLIPS else 'no'} verdict"


def _table(figures):
    rows = [
        (
            figure.axis,
            figure.period,
            figure.statistic,
            f"{figure.excess:.3f}",
            "-" if figure.ci95 is None else "[{:.3f}, {:.3f}]".format(*figure.ci95),
            f"{figure.p_value:.2g}",
            "-" if figure.z is None else f"{figure.z:.1f}",
            "-" if figure.rank is None else f"{figure.rank}/{figure.phases}",
            figure.verdict,
        )
        for figure in figures
    ]
    return aligned(("axis", "period", "statistic", "excess", "95 %", "p", "z", "rank", "seam"), rows)


def _size(patch):
    return "x".join(map(str, patch))
