"""Items for a worker of `hpdm-eval bench gpu` that work, raise, die, hang and lose the device."""

import os
import time

import torch

from hpdm_eval.benchmarks.gpu.bench import DeviceLost, Item, Result


def works(bench):
    yield bench.attempt("sum", {"n": 3}, lambda: (3.0, "s", {"pid": os.getpid()}))
    yield bench.attempt("memory", {}, lambda: torch.empty(1 << 60))


def raises(bench):
    yield Result(what="before", settings={}, value=1.0, unit="s")
    raise ValueError("no such\nthing")


def dies(bench):
    os._exit(7)
    yield


def hangs(bench):
    yield Result(what="before", settings={}, value=1.0, unit="s")
    time.sleep(600)


def loses(bench):
    raise DeviceLost("CUDA error")
    yield


def items(settings):
    """A plan for a `Worker`."""
    return [Item(name=f"test/{run.__name__}", cost=1, run=run) for run in (works, raises, dies, hangs, loses)]
