"""`hpdm-eval quickstart`: the whole way from a model to videos to a table, offline, in a minute or two."""

from pathlib import Path

import click

from hpdm.support.console import Command, OutputFolder, common_options
from hpdm.support.lock import hold
from hpdm_eval.records.record import Record


@click.command(cls=Command)
@click.option(
    "--out",
    type=OutputFolder(path_type=Path),
    default="hpdm-quickstart",
    show_default=True,
    help="Folder to fill; one that an earlier quickstart made is used again.",
)
@click.option(
    "--clips",
    type=click.IntRange(min=2),
    default=132,
    show_default=True,
    help="Clips per set; under 129 the distance is mostly sampling bias.",
)
@common_options
def quickstart(out: Path, clips: int, device: str, seed: int, quiet: bool) -> None:
    """Make videos, judge them, and write records, a table and a page: a first look that needs no data and no network.

    Four sets of drawn videos are written as mp4 files: a reference, other clips like it, clips of fewer classes, and
    blurred ones; a fifth is sampled from the nano model that ships with hpdm, in few steps. The distance to the
    reference is smallest for the other clips like it.
    """
    from hpdm_eval.commands.printing import details_table, show_record
    from hpdm_eval.report.tables import text_table
    from hpdm_eval.studies.quickstart import check_free, run_quickstart

    check_free(out)
    click.get_current_context().with_resource(hold(out))

    def show(record: Record) -> None:
        lines = ["", details_table(record.details)] if record.details else []
        show_record(record, {"as_json": False, "folder": None, "quiet": quiet}, lines)

    made = run_quickstart(out, clips=clips, device=device, seed=seed, quiet=quiet, show=show)
    click.echo("\n" + text_table(list(made.records.values()), names=list(made.records)))
    click.echo(made.page)
    click.echo(f"videos, records and table.md are in {out}")
