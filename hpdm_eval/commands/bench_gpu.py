"""`hpdm-eval bench gpu`: everything that needs measuring on a GPU, in the minutes at hand."""

from pathlib import Path

import click

from hpdm.support.console import OutputFolder, common_options, own_folder
from hpdm.support.errors import InputError
from hpdm.support.progress import note
from hpdm_eval.commands.recorded import RememberingCommand


@click.command(cls=RememberingCommand)
@click.option(
    "--out",
    type=OutputFolder(path_type=Path),
    metavar="DIR",
    help="New folder for records.jsonl, gpu.md and gpu.log. Needed but for --list.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.05),
    default=8.0,
    show_default=True,
    help="Time for everything; what does not fit is named and left out.",
)
@click.option("--only", multiple=True, metavar="ITEM", help="Only this item or subject, see --list; repeatable.")
@click.option("--rehearse", is_flag=True, help="The same code on tiny sizes; without --device on the processor.")
@click.option(
    "--commit", metavar="HASH", help="Commit for the records, where the source is a copy without its history."
)
@click.option("--list", "listed", is_flag=True, help="Print the items in their order and what each may cost.")
@common_options
def gpu(
    out: Path | None,
    minutes: float,
    only: tuple[str, ...],
    rehearse: bool,
    commit: str | None,
    listed: bool,
    device: str,
    seed: int,
    quiet: bool,
) -> None:
    """Agreement with the processor, roof, training, memory, gradients, sampling and feature networks on a GPU.

    Items run in the order of --list, the most valuable first. Each result is a line of records.jsonl at once, so an
    interrupted run keeps what it has; gpu.md is rewritten after every item. What fails or does not fit into memory is
    a record with the reason.

    \b
      hpdm-eval bench gpu --minutes 8 --out runs/gpu
      python -m hpdm_eval.benchmarks.gpu --minutes 8 --out runs/gpu     from a source tree
      hpdm-eval bench gpu --rehearse --out runs/rehearsal          everything in small on the processor
    """
    from hpdm_eval.benchmarks.gpu.bench import Settings
    from hpdm_eval.benchmarks.gpu.everything import bench_gpu
    from hpdm_eval.benchmarks.gpu.plan import plan
    from hpdm_eval.benchmarks.gpu.run import PAGE, RECORDS
    from hpdm_eval.records.record import command_line

    name = "cpu" if rehearse and device == "auto" else "cuda" if device == "auto" else device
    settings = Settings(device=name, rehearse=rehearse, seed=seed, only=tuple(only))
    if listed:
        items = plan(settings)
        for item in items:
            click.echo(f"{item.name:<32}{item.cost:>5.0f} s")
        click.echo(f"{'all':<32}{sum(item.cost for item in items):>5.0f} s")
        return
    if out is None:
        raise InputError("--out DIR is missing: the folder for the records")
    own_folder(out)
    words = command_line()
    if click.get_current_context().parent is None:
        words = words.replace("hpdm-eval gpu", "python -m hpdm_eval.benchmarks.gpu", 1)
    journal = bench_gpu(
        out, settings, minutes=minutes, command=words, commit=commit, say=lambda text: note(text, quiet)
    )
    if not quiet:
        click.echo((out / PAGE).read_text(encoding="utf-8"))
    click.echo(f"wrote {out / PAGE} and {len(journal.records)} records in {out / RECORDS}")
