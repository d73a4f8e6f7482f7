"""Everything that needs measuring on a GPU, in the minutes at hand."""

from collections.abc import Callable
from pathlib import Path

from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm_eval.benchmarks.gpu.bench import Settings
from hpdm_eval.benchmarks.gpu.plan import plan
from hpdm_eval.benchmarks.gpu.run import Budget, ItemFailed, Journal, run_items
from hpdm_eval.benchmarks.gpu.worker import Worker


def bench_gpu(
    out: Path,
    settings: Settings,
    *,
    minutes: float = 8.0,
    command: str = "",
    commit: str | None = None,
    say: Callable[[str], None] = print,
) -> Journal:
    """Run the items of `plan` that fit into `minutes`, and write records.jsonl, gpu.md and gpu.log to the folder `out`.

    command, commit: what the records say made them. Each result is a record at once, so an interrupted run keeps what
    it has. Raises InputError without a GPU, unless the settings are a rehearsal, and where nothing can be measured.
    """
    budget = Budget(60 * minutes)
    if choose_device(settings.device).type == "cpu" and not settings.rehearse:
        raise InputError("without a GPU this takes hours: --rehearse runs the same code on tiny sizes")
    journal = Journal(out, seed=settings.seed, command=command, commit=commit, say=say)
    try:
        with Worker(plan, settings, journal.place.update) as execute:
            execute.begin(budget.left())
            run_items(plan(settings), execute, journal, budget, patient=settings.rehearse)
    except ItemFailed as error:
        raise InputError(f"the measuring process did not start: {error}") from error
    finally:
        journal.write_page()
    return journal
