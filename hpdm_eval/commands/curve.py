"""`hpdm-eval curve`: the Fréchet video distance over the number of samples, for one or more sets of them."""

import csv
import json
from pathlib import Path
from typing import Any

import click

from hpdm.support.console import OutputFolder, own_folder
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file
from hpdm.support.progress import note
from hpdm_eval.commands.options import Sizes, judging_options, take_evaluation
from hpdm_eval.commands.printing import announce
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.records.labels import format_value, protocol_label
from hpdm_eval.records.record import Record
from hpdm_eval.support.text_tables import aligned, piped

SIZES = (128, 256, 512, 2048, 10000)  # those of the paper's figure 8
COLUMNS = ("set", "samples", "fvd", "spread", "fresh spread", "draws")


@click.command(cls=RecordedCommand)
@click.option(
    "--out", type=OutputFolder(path_type=Path), required=True, help="Folder for curve.csv, curve.md and curve.png."
)
@click.option(
    "--at",
    type=Sizes(),
    default=SIZES,
    metavar="N,N,...",
    help=f"Numbers of samples; those above what there is are left out. [default: {','.join(map(str, SIZES))}]",
)
@judging_options(several=True)
def curve(out: Path, at: Any, **options: Any) -> list[Record]:
    """FVD over the number of samples: how much of a figure is sampling bias, and whether an order of models holds.

    Give --samples once per set, such as one folder per checkpoint in the order of training. Each point is the mean
    distance of ten random subsets from the whole reference, with their spread; the last is all samples of the set.
    """
    own_folder(out)
    names = _names(options.pop("samples"))
    evaluation = take_evaluation(options, samples="")
    quiet = evaluation.quiet

    from hpdm_eval.evaluation.curve import curve_records
    from hpdm_eval.support.distributed import rank_and_size

    records = curve_records(names, evaluation, at)
    for name, record in records.items():
        if missing := [size for size in at if size > record.num_samples]:
            note(f"{name}: {record.num_samples} samples, none for {', '.join(map(str, missing))}", quiet)
    if options["as_json"]:
        click.echo(json.dumps([record.to_dict() for record in records.values()], ensure_ascii=False))
    else:
        click.echo(aligned(COLUMNS, _cells(records), right=COLUMNS[1:]) + "\n" + _caption(records))
    announce(list(records.values()), {**options, "quiet": quiet})
    if rank_and_size()[0] == 0:
        _write(out, records)
    note(f"curve.csv, curve.md and curve.png are in {out}", quiet)
    return list(records.values())


def _names(paths):
    """{name: path}: the last part of each path, the whole path where that is not unique."""
    paths = list(dict.fromkeys(map(str, paths)))
    last = [Path(path).name or path for path in paths]
    names = {name if last.count(name) == 1 else path: path for name, path in zip(last, paths)}
    if len(names) < len(paths):
        raise InputError(f"--samples: {', '.join(paths)} cannot be told apart by name")
    return names


def _write(out, records):
    with atomic_file(out / "curve.csv", "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(column.replace(" ", "_") for column in COLUMNS)
        for name, record in records.items():
            for point in record.details:
                writer.writerow([name, *(point[key] for key in ("n", "value", "spread", "fresh_spread", "draws"))])
    with atomic_file(out / "curve.md", "w") as file:
        file.write(piped(COLUMNS, _cells(records), right=COLUMNS[1:]) + "\n" + _caption(records) + "\n")
    points = {
        name: [(point["n"], point["value"], point["spread"]) for point in record.details]
        for name, record in records.items()
    }
    from hpdm_eval.report.plots import curve_figure, save_png  # matplotlib takes a second to import

    save_png(curve_figure(points, title=_caption(records)), out / "curve.png")


def _cells(records):
    return [
        [
            name,
            str(point["n"]),
            *("-" if point[key] is None else format_value(point[key]) for key in ("value", "spread", "fresh_spread")),
            str(point["draws"]),
        ]
        for name, record in records.items()
        for point in record.details
    ]


def _caption(records):
    record = next(iter(records.values()))
    return f"fvd[{record.backbone['name']}] under {protocol_label(record)}, {record.num_reference} reference clips"
