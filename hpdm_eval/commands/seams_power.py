"""`hpdm-eval seams-power`: what the seam test finds of known seams in real clips, and what it finds without any."""

from pathlib import Path
from typing import Any

import click

from hpdm.support.console import OutputFolder, own_folder
from hpdm_eval.commands.options import pixel_options, take_evaluation
from hpdm_eval.commands.printing import show_record
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.records.record import Record
from hpdm_eval.support.text_tables import aligned_lines


@click.command(cls=RecordedCommand)
@click.option("--samples", required=True, type=click.Path(), metavar="DIR|FILE", help="Real clips.")
@click.option("--patch", default="16x64x64", show_default=True, metavar="TxHxW", help="Tiles to put in and look for.")
@click.option(
    "--clips", "per_test", type=click.IntRange(min=4), default=16, show_default=True, help="Videos in each test."
)
@click.option(
    "--resamples", type=click.IntRange(min=10), default=200, show_default=True, help="Random sets of that many clips."
)
@click.option("--longest", type=click.IntRange(min=4), default=64, show_default=True, help="Frames used of each clip.")
@click.option(
    "--out",
    required=True,
    type=OutputFolder(),
    metavar="DIR",
    help="Folder for seams-power.md, .csv and .png, and for the record in records/.",
)
@pixel_options
def seams_power(patch: str, per_test: int, resamples: int, longest: int, out: str, **options: Any) -> Record:
    """Power and false positives of `hpdm-eval seams`, by putting seams of known size into real clips.

    Every clip is measured as it is and with brightness steps and shifts between its tiles. Then random sets of
    clips are judged as the command would: the share called a seam is the power at that size, and the rate of false
    positives for the clips as they are.
    """
    from hpdm_eval.metrics.seams import parse_patch
    from hpdm_eval.studies.validation.seam_power import COLUMNS, study_seam_power

    own_folder(out)
    evaluation = take_evaluation(options)
    record = study_seam_power(
        evaluation, Path(out), patch=parse_patch(patch), per_test=per_test, resamples=resamples, longest=longest
    )
    options["folder"] = options["folder"] or str(Path(out) / "records")
    rows = [[_short(row[key]) for key in COLUMNS] for row in record.details]
    return show_record(record, {**options, "quiet": evaluation.quiet}, ["", *aligned_lines(COLUMNS, rows)])


def _short(value: Any) -> Any:
    return f"{value:.3f}" if isinstance(value, float) else value
