"""`hpdm-eval seams-power`: what the seam test finds of known seams in real clips, and what it finds without any."""

import csv
import io
import time
from pathlib import Path

import click

from hpdm.support.console import OutputFolder, own_folder
from hpdm.support.files import atomic_file
from hpdm.support.progress import note
from hpdm_eval.commands.options import take_protocol
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.pixels import aligned, measure_clips, pixel_options, pixel_record, show_record
from hpdm_eval.metrics.score_tests import TOLERANCE
from hpdm_eval.metrics.seams import parse_patch, seam_lattices
from hpdm_eval.studies.validation.seam_power import (
    COLUMNS,
    conditions,
    coverage_rows,
    measure_conditions,
    power_plot,
    power_report,
    power_rows,
)


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
def seams_power(samples, patch, per_test, resamples, longest, out, **options):
    """Power and false positives of `hpdm-eval seams`, by putting seams of known size into real clips.

    Every clip is measured as it is and with brightness steps and shifts between its tiles. Then random sets of
    clips are judged as the command would: the share called a seam is the power at that size, and the rate of false
    positives for the clips as they are.
    """
    started = time.time()
    own_folder(out)
    protocol = take_protocol(options)
    lattices = seam_lattices(parse_patch(patch))
    note(f"{len(conditions())} versions of each clip", options["quiet"])

    def measure(clip):
        return measure_conditions(clip, parse_patch(patch), lattices, longest)

    measured, summary = measure_clips(samples, protocol, options, "samples", measure)
    rows = power_rows(measured, lattices, per_test, resamples, options["seed"])
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    out = Path(out)
    coverage = coverage_rows(measured, lattices, options["seed"])
    page = power_report(rows, coverage, patch, per_test, resamples, summary, longest)
    for name, content in (
        ("seams-power.csv", table.getvalue().encode()),
        ("seams-power.png", power_plot(rows)),
        ("seams-power.md", page.encode()),
    ):
        with atomic_file(out / name) as file:
            file.write(content)
        note(f"wrote {out / name}", options["quiet"])
    false = next(row for row in rows if row["kind"] == "none" and row["axis"] == "any")
    record = pixel_record(
        "seams-false-positives",
        protocol,
        {"patch": patch, "clips": per_test, "resamples": resamples, "longest": longest, "tolerance": TOLERANCE},
        started=started,
        seed=options["seed"],
        value=false["detected"],
        higher_is_better=False,
        num_samples=summary["clips"],
        samples=summary,
        details=tuple(rows),
        extra={"coverage": coverage},
    )
    show_record(
        record,
        {**options, "folder": options["folder"] or str(out / "records")},
        ["", *aligned(COLUMNS, [[_short(row[key]) for key in COLUMNS] for row in rows])],
    )


def _short(value):
    return f"{value:.3f}" if isinstance(value, float) else value
