"""`hpdm-eval bench gpu`: everything that needs measuring on a GPU, in the minutes at hand."""

from pathlib import Path

import click
import torch

from hpdm.support.console import OutputFolder, common_options, own_folder
from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm.support.progress import note
from hpdm_eval.benchmarks.gpu.bench import Settings
from hpdm_eval.benchmarks.gpu.plan import plan
from hpdm_eval.benchmarks.gpu.run import PAGE, RECORDS, Budget, ItemFailed, Journal, run_items
from hpdm_eval.benchmarks.gpu.worker import Worker
from hpdm_eval.commands.recorded import RememberingCommand
from hpdm_eval.records.record import command_line


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
    device: torch.device,
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
    name = "cpu" if rehearse and device == "auto" else "cuda" if device == "auto" else device
    settings = Settings(device=name, rehearse=rehearse, seed=seed, only=tuple(only))
    items = plan(settings)
    if listed:
        for item in items:
            click.echo(f"{item.name:<32}{item.cost:>5.0f} s")
        click.echo(f"{'all':<32}{sum(item.cost for item in items):>5.0f} s")
        return
    if out is None:
        raise InputError("--out DIR is missing: the folder for the records")
    budget = Budget(60 * minutes)
    if choose_device(name).type == "cpu" and not rehearse:
        raise InputError("without a GPU this takes hours: --rehearse runs the same code on tiny sizes")
    own_folder(out)
    words = command_line()
    if click.get_current_context().parent is None:
        words = words.replace("hpdm-eval gpu", "python -m hpdm_eval.benchmarks.gpu", 1)
    journal = Journal(out, seed=seed, command=words, commit=commit, say=lambda text: note(text, quiet))
    try:
        with Worker(plan, settings, journal.place.update) as execute:
            execute.begin(budget.left())
            run_items(items, execute, journal, budget, patient=rehearse)
    except ItemFailed as error:
        raise InputError(f"the measuring process did not start: {error}") from error
    finally:
        journal.write_page()
    if not quiet:
        click.echo((out / PAGE).read_text(encoding="utf-8"))
    click.echo(f"wrote {out / PAGE} and {len(journal.records)} records in {out / RECORDS}")
