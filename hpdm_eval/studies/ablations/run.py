"""A whole ablation study in a folder: what is there is checked, tasks are done, in several processes if wanted."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch

from hpdm.config import config_from_dict, config_to_dict
from hpdm.support.errors import InputError
from hpdm.support.files import holds_something, parse_json, write_json
from hpdm.support.lock import hold
from hpdm.support.progress import note
from hpdm_eval.report.make import make_report
from hpdm_eval.studies.ablations.plan import Plan
from hpdm_eval.studies.ablations.tasks import Workshop
from hpdm_eval.studies.ablations.work import Progress, is_first, work
from hpdm_eval.support.distributed import joined_processes, rank_and_size
from hpdm_eval.support.stopping import stopping

LOG_FILE, SETTINGS_FILE, REPORT = "log.txt", "study.json", "report"
FREE_TO_CHANGE = ("repeats", "jobs", "omit")
PATIENCE = 600.0  # seconds for another call on the folder to check its settings, or to write the report
SAY_SECONDS = 60.0  # between lines on how far several processes are


class JobFailed(Exception):
    """A process that works on the study has ended with an error."""


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """What a call of `run_study` has done."""

    is_complete: bool  # False where the time was up before
    records: Path  # the folder of all records so far


def run_study(
    plan: Plan,
    out: Path,
    *,
    device: torch.device,
    command: Sequence[str],
    recorded: str,
    jobs: int | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> StudyRun:
    """Do what is left of a plan in the folder `out`, then write its report there.

    command: words that start a program which continues the same study, for more `jobs` than one; they get "--jobs 1
    --quiet" after them. recorded: the command that records name. jobs: processes that work at once, with the cores
    shared out among them; None takes the tier's, and one on a GPU. minutes: save and return after so long.

    Raises InputError for a folder of another study, JobFailed where a process fails, and KeyboardInterrupt; the same
    call continues.
    """
    os.environ.setdefault("HPDM_EVAL_CACHE", str(out / "features"))
    # The first process may be busy for long while others wait for it.
    with joined_processes("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timedelta(days=1)):
        quiet = quiet or rank_and_size()[0] > 0
        with hold(out, patience=PATIENCE) if is_first() else nullcontext():
            check_settings(out, plan)
        workshop = Workshop(plan, out, device=device, command=recorded, quiet=quiet)
        tasks, records = workshop.tasks(), workshop.records.folder
        progress = Progress(tasks, out / LOG_FILE, quiet)
        name = plan.tier.name
        note(f"{name}: {progress.line()}", quiet)
        jobs = min(jobs or (1 if device.type == "cuda" else plan.tier.jobs), len(os.sched_getaffinity(0)))
        with stopping(minutes) as stop:
            try:
                if jobs > 1 and rank_and_size()[1] == 1:
                    work([task for task in tasks if task.alone], out / ".locks", progress)
                    _share_out(jobs, command, out, progress, quiet)
                else:
                    work(tasks, out / ".locks", progress)
            except JobFailed as failure:
                progress.say(str(failure))
                raise
            except KeyboardInterrupt:
                progress.say(f"{stop.reason}: {progress.line()}; the same command continues")
                if stop.is_time_up:
                    return StudyRun(is_complete=False, records=records)
                raise
        progress.say(f"{name}: {progress.line()}")
        if is_first():
            with hold(out, patience=PATIENCE):  # another call may be at its own
                make_report([records], out / REPORT, title=f"Ablations, {name}")
    return StudyRun(is_complete=True, records=records)


def check_settings(out: Path, plan: Plan) -> None:
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


def _share_out(jobs: int, command: Sequence[str], out: Path, progress: Progress, quiet: bool) -> None:
    """Let `jobs` processes of a command work on the folder, each with its share of the cores."""
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    processes = []
    try:
        for number in range(jobs):
            with open(out / f"job{number}.txt", "a", encoding="utf-8") as log:
                words = [*command, "--jobs", "1", "--quiet"]
                processes.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log))
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
