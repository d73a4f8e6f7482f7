"""Decoding ahead: jobs in worker processes, answers in order, and a bound on the memory that clips take meanwhile."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from hpdm.support.progress import note
from hpdm.video.workers import JobFailed, Workers, seconds_for
from hpdm_eval.clips.jobs import Decoded, DecodeSettings, Job, TooLarge, decode
from hpdm_eval.support.limits import in_words, limit

DECODE = "hpdm_eval.clips.jobs:decode"
COPIES = 2  # of a clip while it is handed over: in the worker, and on its way to this process


def decode_ahead(
    jobs: Iterable[tuple[Any, Job | list[Decoded]]], settings: DecodeSettings, count: int, quiet: bool = False
) -> Iterator[tuple[Any, list[Decoded]]]:
    """Yield (what, [Decoded, ...]) for each of `jobs`, pairs of (what, Job), in order.

    In place of a Job there may be its answers, where they are known.

    count: worker processes; with 0 everything is decoded in this process. At most twice as many jobs are under way or
    wait to be taken, and fewer where their clips would take more than HPDM_EVAL_AHEAD bytes; the one that is wanted
    next always is. A clip's size is first known when it is read, so each job has an allowance: the size of the largest
    clip so far. One that needs more says so, and is read again when its turn comes.
    """
    pool = Workers(DECODE, settings, count, limit=lambda job: seconds_for(job.path)) if count else _Inline(settings)
    queue = _Queue(jobs, pool, max(2 * count, 1), _known_size(settings), quiet)
    with pool:
        while queue.fill():
            yield queue.next()


@dataclass
class _Entry:
    what: object
    job: object
    future: Future


class _Queue:
    def __init__(self, jobs, pool, most, known_size, quiet):
        self._jobs, self._pool, self._most, self._quiet = iter(jobs), pool, most, quiet
        self._budget = limit("HPDM_EVAL_AHEAD")
        self._allowance = max(self._budget // (COPIES * most), known_size or 1)
        self._pending, self._noted = deque(), False

    def fill(self):
        """Start as many jobs as may be under way; returns whether any is."""
        while len(self._pending) < self._most and (not self._pending or self._taken() + self._share <= self._budget):
            entry = next(self._jobs, None)
            if entry is None:
                return bool(self._pending)
            what, job = entry
            if isinstance(job, list):
                self._pending.append(_Entry(what, None, _done(job)))
                continue
            job = replace(job, allowance=self._allowance)
            self._pending.append(_Entry(what, job, self._pool.submit(job)))
        if len(self._pending) < self._most:
            self._note()
        return bool(self._pending)

    def next(self):
        """(what, answers) of the first job under way, waiting for it."""
        entry = self._pending.popleft()
        answers = self._result(entry)
        if isinstance(answers, TooLarge):
            self._allowance = max(self._allowance, answers.size)
            entry.future = self._pool.submit(replace(entry.job, allowance=None))
            answers = self._result(entry)
        return entry.what, answers

    @property
    def _share(self):
        return COPIES * self._allowance

    def _taken(self):
        return sum(COPIES * entry.job.allowance for entry in self._pending if entry.job is not None)

    def _result(self, entry):
        try:
            return entry.future.result()
        except JobFailed as failure:
            return [Decoded(reason=str(failure))] * len(entry.job.parts)

    def _note(self):
        if not self._noted:
            self._noted = True
            ahead = max(self._budget // self._share, 1)
            note(
                f"clips of {in_words(self._allowance)}: {ahead} decoded at a time, within {in_words(self._budget)} "
                "for all that are not yet used (HPDM_EVAL_AHEAD)",
                self._quiet,
            )


def _known_size(settings):
    """Bytes of a job's clips where the settings fix them, else None."""
    frames, resolution = settings.rule.frames, settings.resolution
    if frames is None or resolution is None:
        return None
    return frames * resolution[0] * resolution[1] * 3 * (1 if settings.grid is None else len(settings.grid))


class _Inline:
    """Stands in for Workers and decodes in this process."""

    def __init__(self, settings):
        self._settings = settings

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, job):
        return _done(decode(job, self._settings))


def _done(answers):
    future = Future()
    future.set_result(answers)
    return future
