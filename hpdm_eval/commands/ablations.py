"""`hpdm-eval ablations`: train, sample and judge what the paper's tables 3, 4, 6 and figure 8 compare, and more."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import click

from hpdm.config import config_from_dict, config_to_dict
from hpdm.support.console import EXIT_FAILURE, OutputFolder, common_options
from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm.support.files import holds_something, parse_json, write_json
from hpdm.support.lock import hold
from hpdm.support.progress import note
from hpdm_eval.commands.recorded import RememberingCommand
from hpdm_eval.commands.report import report
from hpdm_eval.records.record import command_line
from hpdm_eval.studies.ablations.cost import describe_cost
from hpdm_eval.studies.ablations.measure import call
from hpdm_eval.studies.ablations.plan import load_tier, make_plan, tier_names
from hpdm_eval.studies.ablations.tasks import Workshop
from hpdm_eval.studies.ablations.work import Progress, is_first, work
from hpdm_eval.support.distributed import joined_processes, rank_and_size

LOG_FILE, SETTINGS_FILE = "log.txt", "study.json"
FREE_TO_CHANGE = ("repeats", "jobs", "omit")
PATIENCE = 600.0  # seconds for another call on the folder to check its settings, or to write the report
SAY_SECONDS = 60.0  # between lines on how far several processes are


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
def ablations(tier, out, only, seeds, size, data, jobs, stop_after_minutes, plan_only, yes, device, seed, quiet):
    """Train, sample and judge the variants of the ablation studies.

    What several variants need is made once, and nothing that is finished is done twice: Ctrl-C loses no more than the
    step in progress, and the same command continues. Several calls may work on one folder at the same time. Figures
    are saved in OUT/records as they come, tables and a page of them in OUT/report at the end.
    """
    chosen = load_tier(tier)
    chosen = replace(chosen, **{key: value for key, value in (("size", size), ("data", data)) if value is not None})
    plan = make_plan(chosen, [name for text in only for name in text.split(",")], seeds, seed)
    if plan_only or (tier == "paper" and not yes):
        click.echo(describe_cost(plan))
        if not plan_only:
            raise InputError("the paper's numbers take this long: --yes begins")
        return 0
    device = choose_device(device)
    os.environ.setdefault("HPDM_EVAL_CACHE", str(out / "features"))
    # The first process may be busy for long while others wait for it.
    with joined_processes("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timedelta(days=1)):
        quiet = quiet or rank_and_size()[0] > 0
        with hold(out, patience=PATIENCE) if is_first() else nullcontext():
            _check_settings(out, plan)
        workshop = Workshop(plan, out, device=device, command=command_line(), quiet=quiet)
        tasks = workshop.tasks()
        progress = Progress(tasks, out / LOG_FILE, quiet)
        note(f"{tier}: {progress.line()}", quiet)
        jobs = min(jobs or (1 if device.type == "cuda" else chosen.jobs), len(os.sched_getaffinity(0)))
        with _stopping(stop_after_minutes) as stop:
            try:
                if jobs > 1 and rank_and_size()[1] == 1:
                    work([task for task in tasks if task.alone], out / ".locks", progress)
                    _share_out(jobs, out, progress, quiet)
                else:
                    work(tasks, out / ".locks", progress)
            except JobFailed as failure:
                progress.say(str(failure))
                return EXIT_FAILURE
            except KeyboardInterrupt:
                progress.say(f"{stop.reason}: {progress.line()}; the same command continues")
                if stop.is_time_up:
                    return 0
                raise
        progress.say(f"{tier}: {progress.line()}")
        if is_first():
            with hold(out, patience=PATIENCE):  # another call may be at its own
                call(
                    report,
                    "--records",
                    workshop.records.folder,
                    "--out",
                    out / "report",
                    "--title",
                    f"Ablations, {tier}",
                    "--quiet",
                )
        made = len(list(workshop.records.folder.glob("*.json")))
        click.echo(f"{made} records are in {workshop.records.folder}, their tables and page in {out / 'report'}")
    return 0


class JobFailed(Exception):
    """A process that works on the study has ended with an error."""


class _Stop:
    """Why a study ends early."""

    is_time_up = False

    @property
    def reason(self):
        return "time is up" if self.is_time_up else "interrupted"


@contextmanager
def _stopping(minutes):
    """Within the block SIGTERM ends the work as Ctrl-C does, and so does the clock after `minutes`, if given."""
    stop = _Stop()

    def interrupt(number, frame):
        raise KeyboardInterrupt

    def time_is_up(number, frame):
        stop.is_time_up = True
        os.kill(os.getpid(), signal.SIGTERM)  # whoever works now knows what to save on that

    handlers = {signal.SIGTERM: interrupt, signal.SIGALRM: time_is_up}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    signal.setitimer(signal.ITIMER_REAL, 60 * (minutes or 0))
    try:
        yield stop
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _share_out(jobs, out, progress, quiet):
    """Let `jobs` processes of this command work on the folder, each with its share of the cores."""
    words = [*shlex.split(command_line())[1:], "--jobs", "1", "--quiet"]
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    program = [sys.executable, "-c", "from hpdm_eval.commands.entry import main; main()", *words]
    processes = []
    try:
        for number in range(jobs):
            with open(out / f"job{number}.txt", "a", encoding="utf-8") as log:
                processes.append(subprocess.Popen(program, env=environment, stdout=log, stderr=log))
        said = time.monotonic()
        while any(process.poll() is None for process in processes):
            time.sleep(1)
            if failed := [number for number, process in enumerate(processes) if process.poll() not in (None, 0)]:
                raise JobFailed(f"a process of the study failed: see the end of {out / f'job{failed[0]}.txt'}")
            if time.monotonic() - said > SAY_SECONDS:
                said = time.monotonic()
                note(progress.line(), quiet)
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()


def _check_settings(out, plan):
    """Write down what the folder is made with; raises InputError where it was made with something else."""
    tier = {key: value for key, value in asdict(plan.tier).items() if key not in FREE_TO_CHANGE}
    settings = json.loads(json.dumps({"tier": tier, "config": config_to_dict(plan.base)}))
    path = out / SETTINGS_FILE
    if rank_and_size()[0] > 0:
        return
    if path.is_file():
        try:
            before = parse_json(path.read_bytes())
            before["tier"], before["config"]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); name another folder") from error
        changed = [
            f"{key}: {before['tier'].get(key)!r} -> {value!r}"
            for key, value in settings["tier"].items()
            if before["tier"].get(key) != value
        ]
        # Fields that a later version has added take their defaults.
        if not changed and config_from_dict(before["config"], where=str(path)) != plan.base:
            changed = ["the configuration"]
        if changed:
            raise InputError(f"{out} was made with other settings ({'; '.join(changed)}); name another folder")
    elif holds_something(out):
        raise InputError(f"--out {out} is not empty and holds no study; name a new folder")
    else:
        write_json(path, settings)
