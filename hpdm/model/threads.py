"""Threads by the size of the work, on the processor.

A matrix product that is over in microseconds takes longer with many threads than with one, since they must be woken and
waited for; on a machine of many cores a small network then trains and samples at a fraction of its speed. So the
products of a network decide how many of PyTorch's threads compute. OMP_NUM_THREADS, where it is set, is obeyed instead.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from hpdm.config import Config

# Multiply-adds of a product that keep a thread busy for about a tenth of a millisecond; `hpdm-eval bench threads`.
WORK_PER_THREAD = 4_000_000


def product_size(config: "Config", samples: int) -> int:
    """Multiply-adds of the typical matrix product of a network: the tokens of `samples` patches through one layer.

    >>> from hpdm.config import load_config
    >>> product_size(load_config("nano"), 1)
    589824
    """
    tokens = math.prod(r // t for r, t in zip(config.pyramid.patch, config.network.token, strict=True))
    return samples * tokens * config.network.token_width**2


def threads_for(work: float, most: int) -> int:
    """How many threads products of `work` multiply-adds keep busy: from 1 to `most`.

    >>> threads_for(600_000, most=16), threads_for(10_000_000, most=16), threads_for(5e9, most=16)
    (1, 2, 16)
    """
    return max(1, min(most, int(work / WORK_PER_THREAD)))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within the block PyTorch computes with `count` threads on the processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def threads_by_work(work: float, device: torch.device | str) -> Iterator[None]:
    """Within the block PyTorch computes with the threads that products of `work` multiply-adds keep busy.

    On a GPU, and where OMP_NUM_THREADS says how many, it changes nothing.
    """
    most = torch.get_num_threads()
    chosen = torch.device(device).type == "cpu" and "OMP_NUM_THREADS" not in os.environ
    with threads(threads_for(work, most) if chosen else most):
        yield
