"""A small pool of processes in which a job that kills its process costs that job and nothing else.

Each process belongs to one thread of the parent, so it is always known which job it died of; it is then started again.
Processes are plain `python -m` children that talk over pipes: nothing is forked (decoders keep threads that do not
survive that), the caller's main module is not imported again, and a child starts in a fifth of a second because it
imports only the module that holds its function.
"""

import ctypes
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

READY = "ready"

# Seconds of processor time that any job may take, more for each byte of its file: a hundred times what decoding needs.
LEAST_SECONDS = 20.0
BYTES_PER_SECOND = 500_000
MOST_SECONDS = 900.0


def seconds_for(path: str | Path) -> float:
    """Time limit of a job that reads the file or folder `path`, by its size: a hung decoder must not cost minutes."""
    try:
        size = (
            sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
            if os.path.isdir(path)
            else os.path.getsize(path)
        )
    except OSError:  # the job itself will say so
        size = 0
    return seconds_for_bytes(size)


def seconds_for_bytes(size: int) -> float:
    """Time limit of a job that decodes so many bytes."""
    return min(LEAST_SECONDS + size / BYTES_PER_SECOND, MOST_SECONDS)


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class JobFailed(Exception):
    """The job's process died or was ended for taking too long; the message says which."""


class Workers:
    """Runs `function(job, settings)` in up to `count` processes; use as a context manager.

    function: "package.module:name". Jobs, settings and answers are pickled. `limit`: seconds after which a job's
    process is killed (see `_Watch`), or a function of the job that returns them (`seconds_for` of its path). `prepare`:
    function from a job to the one that is sent; it runs in a thread of this process, before the job's time counts.
    Exceptions that either function raises are raised by the future.
    """

    def __init__(
        self,
        function: str,
        settings: Any,
        count: int,
        limit: float | Callable[[Any], float] = MOST_SECONDS,
        prepare: Callable[[Any], Any] | None = None,
    ) -> None:
        self._start_message = (function, settings)
        self._limit = limit if callable(limit) else lambda _: limit
        self._prepare = prepare or (lambda job: job)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._processes = set()
        self._closed = False

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, job: Any) -> Future:
        """Future of the job's answer; JobFailed where its process did not live to give one."""
        return self._threads.submit(self._run, job)

    def close(self) -> None:
        """End all processes, also those at work."""
        with self._lock:
            self._closed = True
            processes = list(self._processes)
        for process in processes:
            process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in list(self._processes):
            self._release(process)

    def _release(self, process):
        with self._lock:
            self._processes.discard(process)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # a half-written job that no one reads any more
                pipe.close()

    def _run(self, job):
        job = self._prepare(job)
        process = getattr(self._mine, "process", None) or self._start()
        watch = _Watch(process, self._limit(job))
        try:
            _send(process.stdin, job)
            answer, error = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as broken:
            self._mine.process = None
            process.kill()
            self._release(process)
            raise JobFailed(_cause_of_death(process.returncode, watch.verdict)) from broken
        finally:
            watch.end()
        if error is not None:
            raise error
        return answer

    def _start(self):
        search = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
        environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(search))
        with self._lock:
            if self._closed:
                raise JobFailed("the pool is closed")
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "hpdm.video.workers"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,
            )
            self._processes.add(process)
        try:
            _send(process.stdin, self._start_message)
            greeting = pickle.load(process.stdout)
        except (EOFError, OSError) as broken:
            process.wait()
            raise RuntimeError("a worker process did not start; its own message stands above") from broken
        assert greeting == READY
        self._mine.process = process
        return process


def serve() -> None:
    """The child's loop: read a job from stdin, answer on stdout, until stdin ends (the parent closed it or died)."""
    for number in (signal.SIGINT, signal.SIGTERM):  # some schedulers send them to every process; the parent decides
        signal.signal(number, signal.SIG_IGN)
    _end_with_parent()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not end up among the answers
    jobs = sys.stdin.buffer
    name, settings = pickle.load(jobs)
    module, attribute = name.split(":")
    function = getattr(importlib.import_module(module), attribute)
    _send(answers, READY)
    # Decoders complain on stderr about every damaged file; the reasons go back to the parent instead.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while True:
        try:
            job = pickle.load(jobs)
        except EOFError:
            return
        try:
            message: tuple[Any, Exception | None] = (function(job, settings), None)
        except Exception as error:
            message = (None, RuntimeError(f"{type(error).__name__}: {error}") if not _pickles(error) else error)
        _send(answers, message)
        del message  # a clip may be large, and the next job long in coming


def _end_with_parent():
    """Have the kernel end this process when its parent is gone: a hung decoder never looks at its pipe again."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _send(file, message):
    pickle.dump(message, file, protocol=5)
    file.flush()


def _pickles(error):
    try:
        pickle.loads(pickle.dumps(error))
        return True
    except Exception:  # exceptions of C libraries often cannot be rebuilt from their arguments
        return False


def _cause_of_death(code, verdict):
    if verdict:
        return f"decoding it {verdict} and was stopped"
    if code < 0:
        return f"decoding it killed the process ({signal.Signals(-code).name})"
    return f"decoding it ended the process (exit code {code})"


class _Watch:
    """Kills a process that works on one job for too long; `verdict` then says how it was too long.

    Too long is `limit` seconds of processor time, or so many seconds without using the processor at all, so that good
    files survive a machine on which others compute as well; where the system tells no processor time, seconds count.
    """

    POLL = 0.5

    def __init__(self, process, limit):
        self.verdict = None
        self._process, self._limit, self._done = process, limit, threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def end(self):
        self._done.set()

    def _run(self):
        first = used = _processor_seconds(self._process.pid)
        moved = began = time.monotonic()
        while not self._done.wait(min(self.POLL, self._limit)):
            now, before = time.monotonic(), used
            used = _processor_seconds(self._process.pid)
            if used is not None and used != before:
                moved = now
            if used is not None and first is not None and used - first > self._limit:
                self.verdict = f"took more than {self._limit:.0f} s"
            elif now - (began if used is None else moved) > self._limit:
                self.verdict = f"stood still for {self._limit:.0f} s"
            if self.verdict and not self._done.is_set():
                self._process.kill()
                return


def _processor_seconds(pid):
    """Processor time that a process has used, user and system; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


if __name__ == "__main__":
    serve()
