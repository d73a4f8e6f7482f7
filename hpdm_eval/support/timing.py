"""Timing of alternatives in one run, and the memory of this process."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from hpdm.support.progress import note

Stages = Mapping[str, tuple[float, Callable[[], object]]]  # name: (items of a call, call)


def median_rates(
    stages: Stages, rounds: int, quiet: bool = False, device: str | torch.device | None = None
) -> dict[str, float]:
    """Median rate of every stage: {name: (items, function)} → {name: items per second}; see `rates_by_round`."""
    rates = rates_by_round(stages, rounds, quiet, device)
    return {name: statistics.median(own) for name, own in rates.items()}


def rates_by_round(
    stages: Stages, rounds: int, quiet: bool = False, device: str | torch.device | None = None
) -> dict[str, list[float]]:
    """Rates of every stage: {name: (items, function)} → {name: [items per second, in each round]}.

    Each round runs all stages in turn, so that a slow spell of the machine hits all alike; a first round warms up.
    On a GPU the clock waits for `device`.
    """
    seconds = {name: [] for name in stages}
    for turn in range(rounds + 1):
        for name, (_, run) in stages.items():
            _wait(device)
            started = time.perf_counter()
            run()
            _wait(device)
            if turn:
                seconds[name].append(time.perf_counter() - started)
        note(f"round {turn} of {rounds} done", quiet)
    return {name: [count / own for own in seconds[name]] for name, (count, _) in stages.items()}


def median_interval(values: Iterable[float], level: float = 0.95) -> tuple[float, float] | None:
    """Two values between which the median of what was drawn lies with a probability of `level` or more.

    Distribution-free, by order statistics: the k-th smallest and largest, k as large as the binomial distribution
    allows. None where even the extremes are too close, below six values at 95 %.
    """
    from scipy import stats  # takes a second to import

    values = sorted(values)
    k = int(stats.binom.ppf((1 - level) / 2, len(values), 0.5))  # fewer than k of them are below with (1 - level) / 2
    return (values[k - 1], values[-k]) if k else None


def peak_rss_mib() -> float:
    """Peak resident memory of this process so far, in MiB."""
    return memory_of_process()["peak"] / 2**20


def memory_of_process() -> dict[str, int]:
    """Resident memory of this process in bytes: {"now", "peak"}."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the memory of the process that started this one
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return {name: int(lines[key].split()[0]) * 1024 for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"now": peak, "peak": peak}


def reset_peak_memory() -> None:
    """Let `memory_of_process()["peak"]` start from now, where the system allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _wait(device):
    if device is not None and torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
