"""`hpdm-eval ablations`: train, sample and judge what the paper's tables 3, 4, 6 and figure 8 compare, and more."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import click

from hpdm.support.console import EXIT_FAILURE, OutputFolder, common_options
from hpdm.support.errors import InputError
from hpdm_eval.commands.recorded import RememberingCommand
from hpdm_eval.records.record import command_line
from hpdm_eval.studies.ablations.tiers import tier_names


@click.command(cls=RememberingCommand)
@click.option(
    "--tier",
    type=click.Choice(tier_names()),
    default="cpu",
    show_default=True,
    envvar="HPDM_TIER",
    help="How large: smoke takes minutes, cpu about three hours on two cores, nano minutes on a "
    "GPU, gpu some hours; paper is the paper's own numbers.",
)
@click.option(
    "--out",
    type=OutputFolder(path_type=Path),
    required=True,
    help="Folder for runs, samples, records and the log; the same command continues what is in it.",
)
@click.option("--only", multiple=True, metavar="STUDY|STUDY.VARIANT", help="Only these; repeatable.")
@click.option(
    "--seeds", type=click.IntRange(min=1), help="Trainings of each variant, with seeds from --seed on.  [the tier's]"
)
@click.option("--size", help="Size of the network, or a file of settings, in place of the tier's.")
@click.option("--data", metavar="DIR|procedural", help="Where clips come from, in place of the tier's.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Processes that work at once, with the cores shared out among them.  [the tier's; 1 on a GPU]",
)
@click.option(
    "--stop-after-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Save and end after so long; the same command continues.",
)
@click.option("--plan", "plan_only", is_flag=True, help="Print what would be done and its cost, and do nothing.")
@click.option("--yes", is_flag=True, help="Begin a tier that takes weeks of a GPU.")
@common_options
def ablations(
    tier: str,
    out: Path,
    only: tuple[str, ...],
    seeds: int | None,
    size: str | None,
    data: str | None,
    jobs: int | None,
    stop_after_minutes: float | None,
    plan_only: bool,
    yes: bool,
    device: str,
    seed: int,
    quiet: bool,
) -> int:
    """Train, sample and judge the variants of the ablation studies.

    What several variants need is made once, and nothing that is finished is done twice: Ctrl-C loses no more than the
    step in progress, and the same command continues. Several calls may work on one folder at the same time. Figures
    are saved in OUT/records as they come, tables and a page of them in OUT/report at the end.
    """
    from hpdm.support.environment import choose_device, processes_here
    from hpdm_eval.studies.ablations.plan import load_tier, make_plan

    chosen = load_tier(tier)
    chosen = replace(chosen, size=size or chosen.size, data=data or chosen.data)
    plan = make_plan(chosen, [name for text in only for name in text.split(",")], seeds, seed)
    if plan_only or (tier == "paper" and not yes):
        from hpdm_eval.studies.ablations.cost import describe_cost

        click.echo(describe_cost(plan))
        if not plan_only:
            raise InputError("the paper's numbers take this long: --yes begins")
        return 0
    from hpdm_eval.studies.ablations.run import REPORT, JobFailed, run_study

    program = [sys.executable, "-c", "from hpdm_eval.commands.entry import main; main()"]
    try:
        done = run_study(
            plan,
            out,
            device=choose_device(device),
            command=[*program, *shlex.split(command_line())[1:]],
            recorded=command_line(),
            jobs=jobs,
            minutes=stop_after_minutes,
            quiet=quiet,
        )
    except JobFailed:
        return EXIT_FAILURE
    if done.is_complete and processes_here().rank == 0:
        made = len(list(done.records.glob("*.json")))
        click.echo(f"{made} records are in {done.records}, their tables and page in {out / REPORT}")
    return 0
