"""`hpdm-eval positions`: FVD and seams at corners, edges, faces and the inside of the video."""

from typing import Any

import click

from hpdm_eval.commands.options import judging_options, take_evaluation
from hpdm_eval.commands.printing import show_record
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.metrics.tilings import OVERLAPS, TILES
from hpdm_eval.records.labels import format_value
from hpdm_eval.records.record import Record
from hpdm_eval.support.text_tables import aligned_lines


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
def positions(patch: str | None, overlap: str | None, lossless: bool, tiles: int, **options: Any) -> Record:
    """Are the corners of the samples as good as their inside?

    Cuts samples and real clips into tiles of the sampler and compares tiles of the samples with tiles of the real clips
    at the same position: inside, face, edge and corner touch the video's border on 0, 1, 2 and 3 axes. Positions are
    compared with each other and between models; the distances are none of whole videos. Beside FVD there is the excess
    of steps between touching tiles by position, in log units, over that of the real clips. The value is the FVD of the
    corners less that of the inside. It is 0 where both are as good and show as much; where real videos show more in
    the middle than at the border, compare models at one position, not positions of one model.
    """
    from hpdm_eval.evaluation.positions import evaluate_positions

    evaluation = take_evaluation(options)
    own = {"patch": patch, "overlap": overlap, "lossless": lossless, "tiles": tiles}
    record = evaluate_positions(evaluation, own)
    return show_record(record, {**options, "quiet": evaluation.quiet}, ["", *_table(record.details)])


def _table(details: tuple[dict[str, Any], ...]) -> list[str]:
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
    return aligned_lines(("figure", "position", "value", "95 %", "tiles"), rows)
