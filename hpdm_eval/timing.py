"""Timing of alternatives in one run, and the memory of this process."""

import statistics
import time
from pathlib import Path

import torch

from hpdm.console import note


def median_rates(stages, rounds, quiet=False, device=None):
    """Median rate of every stage: {name: (items, function)} → {name: items per second}.

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
    return {name: count / statistics.median(seconds[name]) for name, (count, _) in stages.items()}


def peak_rss_mib():
    """Peak resident memory of this process so far, in MiB."""
    return memory_of_process()["peak"] / 2**20


def memory_of_process():
    """Resident memory of this process in bytes: {"now", "peak"}."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the memory of the process that started this one
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return {name: int(lines[key].split()[0]) * 1024 for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"now": peak, "peak": peak}


def reset_peak_memory():
    """Let `memory_of_process()["peak"]` start from now, where the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _wait(device):
    if device is not None and torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
