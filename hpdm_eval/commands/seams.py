"""`hpdm-eval seams`: steps at the borders of the patches that a video was sampled from."""

from typing import TYPE_CHECKING, Any

import click

from hpdm.support.console import OutputFolder
from hpdm.support.progress import note
from hpdm_eval.commands.options import pixel_options, take_evaluation
from hpdm_eval.commands.printing import show_record
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.metrics.tilings import OVERLAPS
from hpdm_eval.records.record import Record
from hpdm_eval.support.text_tables import aligned_lines

if TYPE_CHECKING:
    from hpdm_eval.metrics.seam_tests import SeamFigure


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
def seams(
    patch: str | None, overlap: str | None, levels: int | None, lossless: bool, plots: str | None, **options: Any
) -> Record:
    """Are there steps where the patches of a tiled sampler meet?

    Each lattice of patch borders is compared with the same lattice moved aside, by multiples of the codec's blocks,
    also of those that the clips had before they were resized. An excess of 0.1 is a contrast 10 % above that of the
    comparable positions; up to 0.05 is not called a seam, since that much is found in real video. The step statistic
    sees any mismatch of neighbouring patches, the coherent-step statistic offsets of brightness far below the texture.
    Axes: w, h and f, between frames. "no" is said where a step of one grey level, put in between the tiles of the same
    clips, would be found; "no verdict" where it would not, or where a lattice cannot be told from what codecs leave:
    the warning names the reason. The headline is the mean excess over all axes, of the finest tiles.
    """
    from hpdm_eval.evaluation.seams import find_plan, judge_tiling, size_text

    evaluation = take_evaluation(options)
    plan = find_plan(evaluation.samples, patch, overlap, levels, lossless)
    note(
        f"patches of {size_text(plan.patch)}, overlap {plan.overlap}, {plan.levels} levels ({plan.source})",
        evaluation.quiet,
    )
    judged = judge_tiling(evaluation, plan)
    if plots:
        from hpdm_eval.report.seam_plots import write_seam_plots  # matplotlib takes a second to import

        for path in write_seam_plots(plots, judged.clips, judged.lattices, judged.figures, reference=judged.reference):
            note(f"plot: {path}", evaluation.quiet)
    worst = judged.record.extra["worst"]
    lines = [
        "",
        *_table(judged.figures),
        "",
        "clips with the largest scores:",
        *aligned_lines(
            ("name", "axis", "period", "statistic", "score"),
            [(*list(entry.values())[:-1], f"{entry['score']:.3f}") for entry in worst],
        ),
    ]
    return show_record(judged.record, {**options, "quiet": evaluation.quiet}, lines)


def _table(figures: "list[SeamFigure]") -> list[str]:
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
    return aligned_lines(("axis", "period", "statistic", "excess", "95 %", "p", "z", "rank", "seam"), rows)
