"""Tasks that know whether they are done, and the loop that does them.

What is on disk is all the state there is, so an interrupted study continues where it stopped, a finished task is never
done again, and several processes may work on one folder: each takes a task that no other has.
"""

import fcntl
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpdm.support.errors import InputError
from hpdm.support.files import append_line
from hpdm.support.progress import note
from hpdm_eval.support.distributed import gather, rank_and_size

WAIT, FINISHED = "wait", "finished"  # in place of a task's name
POLL_SECONDS = 2.0  # between looks at what other processes have finished


@dataclass(frozen=True, kw_only=True)
class Task:
    """A piece of work. `cost` is in forward passes of a patch token through a block, about."""

    name: str
    done: Callable[[], bool]
    run: Callable[[], None]
    needs: tuple[str, ...] = ()  # names of tasks
    cost: float = 0.0
    alone: bool = False  # spoilt by other processes on the machine
    remarks: Callable[[], list[str]] = list  # on what could not be done, once it has run


class Progress:
    """Says what was done and how long the rest may take, on stderr and in a log file."""

    def __init__(self, tasks: Sequence[Task], log: str | Path, quiet: bool) -> None:
        self.tasks, self.log, self.quiet = tasks, Path(log), quiet
        self.began, self.before = time.monotonic(), self._cost_done()

    def _cost_done(self):
        return sum(task.cost for task in self.tasks if task.done())

    def line(self) -> str:
        """How many tasks are done, and an estimate of the time left once there is something to estimate from."""
        total, done = sum(task.cost for task in self.tasks), self._cost_done()
        count, elapsed = sum(task.done() for task in self.tasks), time.monotonic() - self.began
        text = f"{count} of {len(self.tasks)} tasks done"
        if count < len(self.tasks) and done > self.before:
            text += f", about {duration(elapsed * (total - done) / (done - self.before))} left"
        return text

    def say(self, text: str) -> None:
        """Print a line and add it to the log, on the first process of a `torchrun`."""
        if not is_first():
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        append_line(self.log, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")
        note(text, self.quiet)


def duration(seconds: float) -> str:
    """Seconds for people: 40 s, 12 min, 3 h 5 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def work(tasks: Sequence[Task], locks: str | Path, progress: Progress) -> None:
    """Do all tasks that are not done, each when what it needs is; returns when all are.

    Tasks that another process works on are left to it. Under `torchrun` the processes do each task together.
    """
    by_name = {task.name: task for task in tasks}
    while True:
        with ExitStack() as held:
            name = of_first(_choose(by_name, Path(locks), held) if is_first() else None)
            if name == FINISHED:
                return
            if name == WAIT:
                time.sleep(POLL_SECONDS)
                continue
            started = time.monotonic()
            by_name[name].run()
            of_first(None)  # all have done their part
            if is_first() and not by_name[name].done():
                raise InputError(f"{name}: what was made is less than what the tier asks for; are there data enough?")
            for remark in by_name[name].remarks():
                progress.say(f"{name}: {remark}")
            progress.say(f"{name}: {duration(time.monotonic() - started)}; {progress.line()}")


def _choose(by_name, locks, held):
    """Name of a task that can be done now, its lock in the ExitStack `held`; else WAIT or FINISHED."""
    done = {name: task.done() for name, task in by_name.items()}
    if all(done.values()):
        return FINISHED
    for name, task in by_name.items():
        if done[name] or not all(done[need] for need in task.needs):
            continue
        with ExitStack() as lock:
            if lock.enter_context(_taken(locks / f"{name.replace(' ', '-')}.lock")) and not task.done():
                held.push(lock.pop_all())
                return name
    return WAIT


@contextmanager
def _taken(path):
    """Whether this process could take a lock; held for the length of the block, and gone with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def is_first() -> bool:
    """Whether this is the first, or the only, process of a `torchrun`."""
    return rank_and_size()[0] == 0


def of_first(value: Any) -> Any:
    """The first process's value, on all processes of a `torchrun`, once all have come here."""
    return gather(value)[0]


def on_first(function: Callable[[], object]) -> None:
    """Call `function` on the first process of a `torchrun` alone."""
    if is_first():
        function()
