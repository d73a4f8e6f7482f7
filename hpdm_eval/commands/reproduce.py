"""`hpdm-eval reproduce`: is a record's figure still what its command gives, and if not, what has changed?"""

import json
from pathlib import Path
from typing import Any

import click

from hpdm.support.console import Command, Device, OutputFile, OutputFolder
from hpdm.support.errors import InputError
from hpdm_eval.evaluation.reproduce import ABSOLUTE, RELATIVE
from hpdm_eval.evaluation.reproduce import reproduce as run_again
from hpdm_eval.records.archive import split_place
from hpdm_eval.records.labels import metric_label
from hpdm_eval.records.record import load_record
from hpdm_eval.support.text_tables import aligned

EXIT_DIFFERENT = 1
MOST_SHOWN = 10


@click.command(cls=Command)
@click.argument("record", type=click.Path(), metavar="RECORD.json|ARCHIVE#NAME")
@click.option("--metric", metavar="NAME", help="Of an archive the record of this metric, where only one has it.")
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False),
    help="Where the command's relative paths start. [here, or the record's folder or one above it]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=RELATIVE,
    show_default=True,
    help="Relative difference up to which figures count as equal.",
)
@click.option("--device", type=Device(), help="In place of the command's own.")
@click.option("--seed", type=click.IntRange(min=0), help="In place of the command's own.")
@click.option(
    "--allow",
    multiple=True,
    metavar="FILE|SHA-256|OWNER/NAME",
    help="Unverified weights, or a network on the hub, that the record may use; repeatable. A TorchScript "
    "file is a program: it is executed.",
)
@click.option("--quiet", is_flag=True, help="No progress bars and no notes on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of the tables.")
@click.pass_context
def reproduce(
    context: Any,
    record: str,
    metric: str | None,
    folder: Path | None,
    tolerance: float,
    device: Any,
    seed: Any,
    allow: Any,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run the command of a record again and compare its figures: the value, its interval and all details.

    The record is a file, or one of an archive: `hpdm-eval records list ARCHIVE` names them.

    Exit code 0: equal within the tolerance. 1: different; the table says which of code, weights, inputs, settings,
    versions and hardware have changed. 2: the command cannot be run: it is not one of `hpdm-eval`'s measurements, or
    its inputs are not found, or it asks for something unverified. The protocol is that in the record; of `all`,
    `compare`, `curve` and `compare-protocols` only what this record needs is run. Nothing is written, and features are
    computed again.

    A record's own --unverified counts for nothing: --allow names each file or network that you trust.
    """
    recorded = load_record(record, metric)
    result = run_again(
        recorded,
        run_command,
        folder=folder,
        near=split_place(record)[0].parent,
        relative=tolerance,
        device=device,
        seed=seed,
        quiet=quiet,
        allow=allow,
    )
    if as_json:
        click.echo(
            json.dumps(
                {
                    "equal": result.equal,
                    "tolerance": {"relative": tolerance, "absolute": ABSOLUTE},
                    "recorded": recorded.value,
                    "now": result.now.value,
                    "differences": list(result.differences),
                    "changes": {
                        change.what: {"state": change.state, "detail": change.detail} for change in result.changes
                    },
                    "record": result.now.to_dict(),
                },
                ensure_ascii=False,
            )
        )
    else:
        click.echo(
            f"{metric_label(recorded)}: {recorded.value:.8g} recorded, {result.now.value:.8g} now: "
            f"{'equal' if result.equal else 'DIFFERENT'} (relative {tolerance:g}, absolute {ABSOLUTE:g})\n"
        )
        click.echo(
            aligned(
                ("what", "state", "then -> now"),
                [(change.what, change.state, change.detail) for change in result.changes],
            )
        )
        for line in _differences(result.differences):
            click.echo(line)
    if not result.equal:
        context.exit(EXIT_DIFFERENT)


def _differences(differences):
    if differences:
        yield ""
        yield from differences[:MOST_SHOWN]
        if len(differences) > MOST_SHOWN:
            yield f"... and {len(differences) - MOST_SHOWN} more"


def run_command(name: str, words: list[str], scratch: Path) -> None:
    """Run a subcommand that writes nothing outside of `scratch`."""
    from hpdm_eval.commands.entry import main  # which imports this module on demand

    command = main.get_command(None, name)
    if command is None:
        raise InputError(f"hpdm-eval has no command {name!r}; the package that brought it is not installed")
    with command.make_context(name, list(words)) as context:
        for parameter in command.get_params(context):
            value = context.params.get(parameter.name)
            if isinstance(parameter.type, OutputFolder | OutputFile) and str(value) not in ("None", "()", str(scratch)):
                raise InputError(f"the record's command would write to {value}")
        command.invoke(context)
