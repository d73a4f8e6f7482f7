"""`hpdm-eval dead-tokens`: broken blocks on the lattice of a model's tokens."""

from pathlib import Path
from typing import Any

import click

from hpdm.support.console import OutputFolder
from hpdm.support.files import atomic_file
from hpdm.support.progress import note
from hpdm_eval.commands.options import pixel_options, take_evaluation
from hpdm_eval.commands.printing import show_record
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.records.record import Record
from hpdm_eval.support.text_tables import aligned_lines


@click.command(cls=RecordedCommand)
@click.option(
    "--samples",
    required=True,
    type=click.Path(),
    metavar="DIR|FILE",
    help="Clips to judge: videos, folders of frames, arrays, or a zip of them.",
)
@click.option(
    "--token", default="1x4x4", show_default=True, metavar="TxHxW", help="Samples of the video that one token makes."
)
@click.option("--plots", type=OutputFolder(), metavar="DIR", help="Save a heat map, dead-tokens.png, here.")
@pixel_options
def dead_tokens(token: str, plots: str | None, **options: Any) -> Record:
    """How many tokens of the samples are broken: blocks that stand out from all sides, exactly on the token lattice.

    The value is dead tokens per million. In real video about two in a million look like one; the rate on the lattice
    moved by half a token, printed beside it, says what these clips hold by nature. The interval holds for rare tokens
    and few clips too: of n clips without any, its upper end is that of 3.7 clips with a cluster of them.
    """
    from hpdm_eval.evaluation.dead_tokens import count_dead_tokens
    from hpdm_eval.metrics.seams import parse_patch

    evaluation = take_evaluation(options)
    counted = count_dead_tokens(evaluation, parse_patch(token))
    if plots:
        from hpdm_eval.report.dead_token_map import dead_token_map  # matplotlib takes a second to import

        path = Path(plots) / "dead-tokens.png"
        with atomic_file(path) as file:
            places = [clip.positions for clip in counted.clips]
            dead_token_map(places, counted.sizes, parse_patch(token)).savefig(file, dpi=120, format="png")
        note(f"plot: {path}", evaluation.quiet)
    (figures,) = counted.record.details
    lines = [
        "",
        *aligned_lines(("figure", ""), [(key.replace("_", " "), _short(value)) for key, value in figures.items()]),
        *_worst_lines(counted.record.extra["worst"]),
    ]
    return show_record(counted.record, {**options, "quiet": evaluation.quiet}, lines)


def _worst_lines(worst: list[dict[str, Any]]) -> list[str]:
    if not worst:
        return []
    rows = [(entry["name"], entry["dead"], f"{entry['per_million']:.1f}") for entry in worst]
    return ["", "clips with the most:", *aligned_lines(("name", "dead", "per million"), rows)]


def _short(value: Any) -> Any:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else value
