"""`hpdm-train --slurm NODESxGPUS`: the same command as a job of SLURM, by submitit (extra `slurm`).

SLURM starts one task per GPU; each task finds its place in SLURM's variables and then is what torchrun would have
started. Before the time limit, and at pre-emption where the cluster sends the user's signal then, every task drops its
step and the run is saved; then submitit's hook `checkpoint` puts the job back into the queue, where the same command
resumes. SIGTERM, which `scancel` sends too, saves without that.
"""

import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hpdm.support.errors import InputError
from hpdm.support.interrupts import EXIT_INTERRUPTED, handling

OPTIONS = ("--slurm", "--slurm-partition", "--slurm-time", "--slurm-cpus", "--slurm-set", "--slurm-cluster")
SIGNAL_DELAY = 120  # seconds between the signal and the end of the job: a step's pass and a checkpoint must fit
TIMES_OUT = 10_000  # how often a job may reach its time limit and go on


def parse_shape(text: str) -> tuple[int, int]:
    """(nodes, GPUs per node) of "2x8"; raises InputError for anything else."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,2})", text)
    if not match:
        raise InputError(f"--slurm takes NODESxGPUS, such as 2x8; got {text!r}")
    return int(match[1]), int(match[2])


def parse_time(text: str) -> int:
    """Minutes, rounded up, of a time as sbatch takes it: MINUTES, H:M:S, D-H, D-H:M or D-H:M:S."""
    match = re.fullmatch(r"(?:(\d+)-(\d+)(?::(\d+)(?::(\d+))?)?|(\d+):(\d+):(\d+)|(\d+))", text)
    if not match:
        raise InputError(f"--slurm-time takes minutes, hours:minutes:seconds or days-hours; got {text!r}")
    days, hours, minutes, seconds, hours_, minutes_, seconds_, alone = (int(part or 0) for part in match.groups())
    total = 86400 * days + 3600 * (hours + hours_) + 60 * (minutes + minutes_ + alone) + seconds + seconds_
    if not total:
        raise InputError("--slurm-time must be above 0")
    return -(-total // 60)


def without_slurm(words: Sequence[str]) -> list[str]:
    """The words of the command without the options of OPTIONS."""
    kept, skip = [], False
    for word in words:
        if not skip and word.partition("=")[0] not in OPTIONS:
            kept.append(word)
        skip = not skip and word in OPTIONS
    return kept


class TrainingJob:
    """What a task of the job runs: `program(words)`, which returns an exit code; both must pickle."""

    def __init__(self, program: Callable[[Sequence[str]], int], words: Sequence[str]) -> None:
        self.program, self.words = program, tuple(words)

    def __call__(self) -> int:
        """Raises SystemExit with the program's code where that is not 0."""
        os.environ |= torchrun_environment()
        number = getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2"))
        requested = []

        def end(*_):
            requested.append(True)
            signal.raise_signal(signal.SIGTERM)  # the training's own handler: it saves and exits

        with handling({number: end}):
            code = self.program(self.words)
        if requested and code == EXIT_INTERRUPTED:
            if os.environ["RANK"] == "0":
                signal.raise_signal(number)  # submitit's handler: `checkpoint`, then back into the queue
            raise SystemExit(0)
        if code:
            raise SystemExit(code)
        return code

    def checkpoint(self) -> Any:
        """submitit's hook: what to run when the job comes up again. The run is saved already."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def torchrun_environment() -> dict[str, str]:
    """The variables that torchrun would set, of this task of a submitit job."""
    import submitit

    place = submitit.helpers.TorchDistributedEnvironment()
    local = os.environ.get("SUBMITIT_EXECUTOR") == "local"
    return {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_world_size),
        "MASTER_ADDR": "127.0.0.1" if local else place.master_addr,
        "MASTER_PORT": str(place.master_port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def submit(
    program: Callable[[Sequence[str]], int],
    words: Sequence[str],
    run: str | Path,
    *,
    shape: str,
    time: str,
    partition: str | None = None,
    cpus: int | None = None,
    settings: Sequence[str] = (),
    cluster: str = "slurm",
    use_gpus: bool = True,
) -> Any:
    """Submit `program(words)`, a training run; returns submitit's job. Its logs are in a folder next to `run`.

    shape, time: see `parse_shape` and `parse_time`; cpus: per task; settings: further "key=value" of sbatch; cluster:
    "local" runs the tasks on this machine, to try a command. Raises InputError where submitit or SLURM is missing, or
    does not take the settings.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError("--slurm needs submitit: pip install 'hpdm[slurm]'") from error
    nodes, gpus = parse_shape(shape)
    if cluster == "local" and nodes > 1:
        raise InputError(f"--slurm {shape}: on this machine there is one node")
    more = dict(_key_and_value(text) for text in settings)
    folder = Path(run).absolute()
    try:
        executor = submitit.AutoExecutor(
            folder.with_name(f"{folder.name}-slurm"),
            cluster=cluster,
            slurm_max_num_timeout=TIMES_OUT,
            local_max_num_timeout=TIMES_OUT,
        )
        executor.update_parameters(
            name=folder.name,
            nodes=nodes,
            tasks_per_node=gpus,
            gpus_per_node=gpus if use_gpus else None,
            cpus_per_task=cpus,
            timeout_min=parse_time(time),
            slurm_partition=partition,
            slurm_signal_delay_s=SIGNAL_DELAY,
            slurm_additional_parameters={"requeue": True, **more},
        )
        with submitit.helpers.clean_env():
            return executor.submit(TrainingJob(program, words))
    except (RuntimeError, NameError, AssertionError, submitit.core.utils.FailedJobError) as error:
        raise InputError(f"--slurm: {' '.join(str(error).split())[:500]}") from error


def _key_and_value(text):
    key, separator, value = text.partition("=")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9-]*", key):
        raise InputError(f"--slurm-set takes key=value as sbatch knows them, such as account=vision; got {text!r}")
    return key, value
