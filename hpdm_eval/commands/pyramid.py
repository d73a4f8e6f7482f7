"""`hpdm-eval pyramid`: whether the levels of a sampled pyramid agree with each other."""

from typing import Any

import click

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
    metavar="DIR",
    help="Folder with level0, level1, ... (coarse to fine), each holding the same names.",
)
@click.option("--levels", type=click.IntRange(min=2), default=3, show_default=True, help="Levels to compare.")
@pixel_options
def pyramid(levels: int, **options: Any) -> Record:
    """How far is each level of a sample, shrunken, from the coarser level that it was made from?

    Prints, for each pair of levels, the PSNR (mean over clips; the value is that of the pair that agrees least), the
    mean difference, and the error by octave of spatial frequency (fractions of the coarser level's Nyquist frequency).
    `hpdm-sample --save-levels --format npy --out DIR` makes such folders; lossy files would add their own errors.
    """
    from hpdm_eval.evaluation.pyramid import evaluate_pyramid

    evaluation = take_evaluation(options)
    record = evaluate_pyramid(evaluation, {"levels": levels})
    return show_record(record, {**options, "quiet": evaluation.quiet}, ["", *_table(record.details)])


def _table(details: tuple[dict[str, Any], ...]) -> list[str]:
    from hpdm_eval.metrics.pyramid_consistency import band_names

    header = ["levels", "PSNR dB", "bias", *(f"rmse {name}" for name in band_names())]
    rows = [
        [
            f"{entry['level']} to {entry['coarse_level']}",
            f"{entry['psnr']:.2f}",
            f"{entry['bias']:+.2f}",
            *(f"{entry[f'rmse {name}']:.2f}" for name in band_names()),
        ]
        for entry in details
    ]
    return aligned_lines(header, rows)
