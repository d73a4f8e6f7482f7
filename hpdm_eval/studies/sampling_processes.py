"""Samples made by several processes at once, each with one thread; here, so that a process imports no evaluation."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import torch

from hpdm.support.environment import Launched, choose_device
from hpdm.support.errors import InputError


class Waiting(Protocol):
    """Samples that are being made."""

    def is_done(self) -> bool:
        """Whether all processes have ended."""

    def wait(self) -> None:
        """Until all processes have ended; raises InputError with what went wrong."""


class _Processes:
    def __init__(self, count: int, arguments: tuple[Any, ...]) -> None:
        context = get_context("spawn")
        self._failures = context.SimpleQueue()
        self._processes = [
            context.Process(target=_sample_share, args=(self._failures, rank, count, *arguments), daemon=True)
            for rank in range(count)
        ]
        for process in self._processes:
            process.start()

    def is_done(self) -> bool:
        return not any(process.is_alive() for process in self._processes)

    def wait(self) -> None:
        for process in self._processes:
            process.join()
        if not self._failures.empty():
            raise InputError(f"the samples could not be made: {self._failures.get()}")
        if codes := [process.exitcode for process in self._processes if process.exitcode]:
            raise InputError(f"the samples could not be made: a process ended with {codes[0]}")

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


@contextmanager
def sampling_processes(
    count: int, checkpoint: str, out: Path, *, num: int, seed: int, settings: Mapping[str, Any], command: str
) -> Iterator[Waiting]:
    """Within the block `count` processes make `num` samples of a checkpoint on the CPU; they end with it.

    settings: fields of `SamplingConfig`; command: what the manifest names. Networks of few channels are faster in one
    thread than in several, and several processes take several videos.
    """
    processes = _Processes(count, (checkpoint, out, num, seed, dict(settings), command))
    try:
        yield processes
    finally:
        processes.end()


def sample_share(
    checkpoint: str,
    out: Path,
    num: int,
    seed: int,
    settings: Mapping[str, Any],
    command: str,
    *,
    device: str = "cpu",
    process: Launched | None = None,
    quiet: bool = True,
) -> None:
    """The share of one process; without `process` all samples."""
    from hpdm.checkpoint.load import load_checkpoint
    from hpdm.sampling.folder import sample_into
    from hpdm.sampling.request import FolderRequest, SampleRequest
    from hpdm.sampling.sampler import Sampler

    request = SampleRequest(num=num, seed=seed, settings=settings)
    sampler = Sampler(load_checkpoint(checkpoint), request, device=choose_device(device), quiet=quiet)
    sample_into(sampler, out, FolderRequest(command=command), process=process, quiet=quiet)


def _sample_share(failures: Any, rank: int, count: int, *arguments: Any) -> None:
    """Body of a process; puts into the queue what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and ends this process
    torch.set_num_threads(1)
    try:
        sample_share(*arguments, process=Launched(rank=rank, world_size=count))
    except Exception as error:
        failures.put(str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error
