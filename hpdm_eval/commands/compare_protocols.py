"""`hpdm-eval compare-protocols`: one set of videos, one network, every protocol."""

import json
from pathlib import Path
from typing import Any

import click

from hpdm.support.console import OutputFolder, own_folder
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file
from hpdm.support.progress import note
from hpdm_eval.commands.options import judging_options, take_evaluation
from hpdm_eval.commands.printing import announce
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.metrics.registry import get_metric
from hpdm_eval.protocols import Protocol, list_protocols
from hpdm_eval.records.labels import format_value, metric_label, protocol_label
from hpdm_eval.records.record import Record
from hpdm_eval.support.text_tables import aligned, piped

COLUMNS = ("protocol", "numerics", "fvd", "change", "samples", "reference", "what differs")
RIGHT = ("fvd", "change", "samples", "reference")
# Settings that a table of differences need not repeat: `numerics` has a column and stands for the three after it.
NOT_SHOWN = ("numerics", "ddof", "root", "bn_epsilon", "num_samples", "num_reference")


@click.command(cls=RecordedCommand)
@click.option("--protocols", metavar="NAME,NAME,...", help="Which, by name or as YAML files. [all that are named]")
@click.option(
    "--legacy/--no-legacy", default=True, show_default=True, help="Each also with the rounding of its published code."
)
@click.option(
    "--out", type=OutputFolder(path_type=Path), required=True, help="Folder for protocols.md and protocols.png."
)
@judging_options()
def compare_protocols(protocols: Any, legacy: bool, out: Path, **options: Any) -> list[Record]:
    """How much the protocol alone moves FVD: the same videos and network under one protocol after the other.

    `change` is against --protocol. Settings given on the command line, such as --num-samples or --frames, hold for all
    protocols. One that cannot be applied to these videos is listed with the reason.
    """
    own_folder(out)
    chosen = options["protocol"]
    named = [protocol.name for protocol in list_protocols() if protocol.is_splits is None]  # not of Inception Scores
    names = protocols.split(",") if protocols else named
    names = [chosen, *(name for name in names if name != chosen)]
    variants = [options["numerics"]] if options["numerics"] else ["exact", "legacy"] if legacy else ["exact"]

    from hpdm_eval.evaluation.comparisons import evaluate_one
    from hpdm_eval.support.distributed import rank_and_size

    records, failed = [], {}  # reason → protocols
    for name in names:
        for numerics in variants:
            try:
                evaluation = take_evaluation({**options, "protocol": name, "numerics": numerics})
                record = evaluate_one(get_metric("fvd"), evaluation)
            except InputError as error:
                # without legacy numerics of its own a protocol has nothing to add to its exact form
                if "no legacy numerics" not in str(error):
                    failed.setdefault(str(error), []).append(name)
                continue
            records.append(record)
    if not records:
        raise InputError(next(iter(failed), f"protocol {chosen} knows no legacy numerics; use exact"))
    rows, caption = _rows(records), _caption(records, failed)
    if options["as_json"]:
        click.echo(json.dumps([record.to_dict() for record in records], ensure_ascii=False))
    else:
        click.echo(aligned(COLUMNS, rows, RIGHT) + "\n" + "\n".join(caption))
    announce(records, options)
    if rank_and_size()[0] == 0:
        from hpdm_eval.report.plots import save_png  # matplotlib takes a second to import

        with atomic_file(out / "protocols.md", "w") as file:
            file.write(piped(COLUMNS, rows, RIGHT) + "\n" + "  \n".join(caption) + "\n")
        save_png(_bars(records), out / "protocols.png")
    note(f"protocols.md and protocols.png are in {out}", options["quiet"])
    return records


def _bars(records):
    from hpdm_eval.report.plots import bar_figure

    labels = {f"{record.protocol['name']}, {record.protocol['numerics']}": record for record in records}
    return bar_figure(
        {label: record.value for label, record in labels.items()},
        {label: record.ci95 for label, record in labels.items() if record.ci95},
        label=metric_label(records[0]),
        title=f"{Path(records[0].samples['path']).name}: one set of videos under each protocol",
    )


def _rows(records):
    base = records[0]
    rows = []
    for record in records:
        change = ""
        if record is not base and base.value > 0:
            change = f"{round(100 * (record.value / base.value - 1), 1) + 0.0:+.1f} %"  # + 0.0: not -0.0
        interval = " [{}, {}]".format(*map(format_value, record.ci95)) if record.ci95 else ""
        rows.append(
            [
                protocol_label(record),
                record.protocol["numerics"],
                format_value(record.value) + interval,
                change,
                str(record.num_samples),
                str(record.num_reference),
                _differences(base, record),
            ]
        )
    return rows


def _differences(base, record):
    ours, theirs = (
        Protocol.from_dict({key: value for key, value in protocol.items() if key != "hash"})
        for protocol in (record.protocol, base.protocol)
    )
    return ", ".join(
        f"{key} {_short(mine)}" for key, (mine, _) in ours.differences(theirs).items() if key not in NOT_SHOWN
    )


def _short(value):
    return "x".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)


def _caption(records, failed):
    values = [record.value for record in records]
    lines = [
        f"{metric_label(records[0])} of {records[0].samples['path']} from {records[0].reference['path']}: "
        f"{format_value(min(values))} to {format_value(max(values))} by the protocol alone."
    ]
    return lines + [f"{', '.join(dict.fromkeys(names))}: {reason}" for reason, names in failed.items()]
