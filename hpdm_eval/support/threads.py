"""Which threads compute what, so that a figure is the same to the last bit for any number of them.

Libraries split sums among their threads, so the last bits of a convolution, a matrix product or a singular value depend
on how many there are: on the machine's cores, on OMP_NUM_THREADS, and on torchrun, which sets that to 1. Here every sum
is made by one thread, and several threads take several clips.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Value = TypeVar("Value")

_within = False  # a block of `one_thread`
_outside = 1  # PyTorch's threads before that block
_found = 0, None  # how many modules were imported when libraries were looked for, and what was found: it takes a while


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block, or the function it decorates, PyTorch, BLAS and OpenMP compute with one thread."""
    global _within, _outside
    if _within:
        yield
        return
    before, _within = torch.get_num_threads(), True
    _outside = before
    torch.set_num_threads(1)
    try:
        with _libraries().limit(limits=1):
            yield
    finally:
        torch.set_num_threads(before)
        _within = False


def by_threads(function: Callable[[Item], Value], items: Iterable[Item]) -> list[Value]:
    """[function(item) for each item] for functions of numpy arrays, within `one_thread`.

    As many items are at work at once as PyTorch had threads outside that block, each with one, and no more are taken
    from `items` before. numpy.linalg lets other threads run only while it works on a stack of two matrices or more.
    """
    if not _within:
        with one_thread():
            return by_threads(function, items)
    items, results = iter(items), []
    if _outside == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(_outside, "sums") as pool:
        while some := list(islice(items, _outside)):
            results += pool.map(function, some)
    return results


def _libraries():
    global _found
    if _found[0] != len(sys.modules):
        controller = ThreadpoolController()
        _found = len(sys.modules), controller
    return _found[1]


@contextmanager
def side_by_side() -> Iterator[Callable[..., list]]:
    """Yield a function `map(function, items, most)` that returns a list, in order, of function(item).

    Up to `most` calls run at once, and no more than PyTorch has threads; each computes with one thread.
    """
    count = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "clips", _take_one_thread) if count > 1 else None

    def run(function, items, most):
        if pool is None or most == 1 or len(items) < 2:
            torch.set_num_threads(1)
            try:
                return [function(item) for item in items]
            finally:
                torch.set_num_threads(count)
        results = []
        for start in range(0, len(items), most):
            results += pool.map(function, items[start : start + most])
        return results

    try:
        yield run
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(count)  # also of threads that are started later


def _take_one_thread():
    torch.get_num_threads()  # PyTorch sets up a thread at its first use, and would undo the next line then
    torch.set_num_threads(1)
