"""The loop over items: what fits into the time is measured, each result is a record at once, the rest is named."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hpdm.support.environment import git_revision
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file
from hpdm_eval.benchmarks.gpu.bench import FAILED, LEFT_OUT, MEASURED, Item, Result
from hpdm_eval.benchmarks.gpu.tables import page
from hpdm_eval.records.record import utc_now

RECORDS, PAGE, LOG = "records.jsonl", "gpu.md", "gpu.log"
RESERVE = 3.0  # seconds kept for the last table
OVERRUN, GRACE = 3, 45.0  # an item is stopped at so many times its cost and so many seconds


class ItemFailed(Exception):
    """An item ended without finishing; the message says why."""


class Budget:
    """Seconds that a run may take, counted from when it began."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.clock, self.began = seconds, clock, clock()

    def spent(self) -> float:
        return self.clock() - self.began

    def left(self) -> float:
        """Seconds that items may still use."""
        return self.total - RESERVE - self.spent()


class Journal:
    """The folder of a run: a line of JSON per record, written at once; the log; the table of what there is so far."""

    def __init__(
        self,
        folder: str | Path,
        *,
        seed: int,
        command: str,
        commit: str | None = None,
        say: Callable[[str], object] = print,
    ) -> None:
        self.folder, self.say = Path(folder), say
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / RECORDS).exists():
            raise InputError(f"{self.folder} holds the records of another run; name a new folder")
        self.origin = {"seed": seed, "command": command, "git": commit or git_revision()}
        self.place = {"device": None, "versions": {}}  # known once the worker runs
        self.records = []

    def add(self, item: Item, result: Result, seconds: float) -> dict:
        """Save a result as a record."""
        record = {
            "schema": 1,
            "bench": "gpu",
            "item": item.name,
            "subject": item.subject,
            **_plain(result.to_dict()),
            "seconds": round(seconds, 3),
            **self.place,
            **self.origin,
            "created": utc_now(),
        }
        self.records.append(record)
        with open(self.folder / RECORDS, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return record

    def note(self, text: str) -> None:
        """A line for people, also in the log."""
        with open(self.folder / LOG, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self.say(text)

    def write_page(self) -> None:
        with atomic_file(self.folder / PAGE, "w") as file:
            file.write(page(self.records))


def read_records(folder: str | Path) -> list[dict]:
    """The records of a run; a last line that an interruption cut short is dropped."""
    path = Path(folder) / RECORDS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; it is written by hpdm-eval bench gpu --out") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise InputError(f"{path}: line {number} is not JSON") from error
    return records


def run_items(
    items: Sequence[Item],
    execute: Callable[..., Iterator[Result]],
    journal: Journal,
    budget: Budget,
    *,
    patient: bool = False,
) -> None:
    """Run the items in their order as long as each fits into what is left; the others are named with the reason.

    execute(item, limit, facts) yields the item's `Result`s, and raises ItemFailed where it ends otherwise, within
    `limit` seconds: what is left of the budget and, unless `patient`, less for an item that takes much longer than it
    may.
    """
    facts, left_out = {"roof": {}}, []
    for item in items:
        left = budget.left()
        if item.cost > left:
            reason = f"needs about {item.cost:.0f} s, {max(0.0, left):.0f} s were left"
            journal.add(item, Result(what=item.name, settings={}, status=LEFT_OUT, reason=reason), 0)
            left_out.append(item.name)
            continue
        began = before = budget.clock()
        journal.note(f"{item.name}: begins at {budget.spent():.0f} s, about {item.cost:.0f} s")
        try:
            limit = left if patient else min(left, OVERRUN * item.cost + GRACE)
            for result in execute(item, limit, facts):
                now = budget.clock()
                journal.add(item, result, now - before)
                journal.note("  " + describe(result))
                before = now
                _learn(facts, item, result)
        except ItemFailed as error:
            failed = Result(what=item.name, settings={}, status=FAILED, reason=str(error))
            journal.add(item, failed, budget.clock() - before)
            journal.note("  " + describe(failed))
        journal.note(f"{item.name}: took {budget.clock() - began:.1f} s")
        journal.write_page()
    if left_out:
        journal.note("left out for lack of time: " + ", ".join(left_out))
    journal.write_page()
    counts = {
        status: sum(record["status"] == status for record in journal.records) for status in (MEASURED, FAILED, LEFT_OUT)
    }
    journal.note(
        f"{budget.spent():.0f} of {budget.total:.0f} s; "
        + ", ".join(f"{count} {status}" for status, count in counts.items())
    )


def describe(result: Result) -> str:
    """A result as one line."""
    settings = " ".join(f"{key}={value}" for key, value in result.settings.items())
    if result.status != MEASURED:
        return f"{result.what} {settings}: {result.status}, {result.reason}"
    details = ", ".join(f"{key} {_short(value)}" for key, value in result.details.items())
    return f"{result.what} {settings}: {_short(result.value)} {result.unit}" + (f" ({details})" if details else "")


def _plain(value):
    """Without numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _plain(own) for key, own in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _learn(facts, item, result):
    """Keep the rates of large matrix products, which later items compare with."""
    is_product = item.subject == "roof" and result.what == "matrix product"
    if is_product and result.status == MEASURED and result.settings.get("shape") == "square":
        facts["roof"][result.settings["precision"]] = result.value * 1e12
