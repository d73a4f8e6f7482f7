"""Several processes on one evaluation, as `torchrun -m hpdm_eval -- ...` starts them.

Each process decodes and runs the network on its share of the clips; then all of them gather all features, so that each
ends with what a single process would have. Only the first talks to the user. Objects travel by gloo, also where the
networks run on GPUs: they are few and small.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from hpdm.support.environment import check_meeting_point, processes_here
from hpdm.support.errors import InputError

Value = TypeVar("Value")


class PeerError(InputError):
    """What was wrong with the input of another process."""


@contextmanager
def joined_processes(backend: str = "gloo", timeout: timedelta | None = None) -> Iterator[None]:
    """Join the processes that `torchrun` started, if it did, for the length of the block; stdout is the first one's.

    Processes that have joined stay so: a block within a block changes nothing. backend, timeout: as for
    `torch.distributed.init_process_group`.
    """
    if processes_here().world_size == 1 or dist.is_initialized():
        yield
        return
    check_meeting_point()
    dist.init_process_group(backend, timeout=timeout)
    try:
        if dist.get_rank() == 0:
            yield
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                yield
    finally:
        dist.destroy_process_group()


def rank_and_size() -> tuple[int, int]:
    """(rank of this process, number of processes): (0, 1) where there is but one."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather(value: Value) -> list[Value]:
    """`value` of every process, in the order of ranks, on every process.

    Raises PeerError where another process has failed, see `failing_together`.
    """
    _, size = rank_and_size()
    if size == 1:
        return [value]
    values: list = [None] * size
    dist.all_gather_object(values, value)
    for theirs in values:
        if isinstance(theirs, PeerError):
            raise theirs
    return values


@contextmanager
def failing_together() -> Iterator[None]:
    """An InputError in the block on one process is raised on all, by the next `gather` of the others.

    So no process waits for one that has gone, and none goes on to another task while others are at this one.
    """
    try:
        yield
    except PeerError:
        raise
    except InputError as error:
        if rank_and_size()[1] > 1:
            gather(PeerError(str(error)))
        raise


def share(items: Sequence[Value], rank: int, size: int) -> Sequence[Value]:
    """This process' part of a list: neighbours stay together, so that the cells of a sheet are decoded once."""
    return items[len(items) * rank // size : len(items) * (rank + 1) // size]
