"""What an item of the GPU benchmark works with: device, precisions, a clock that waits for the device, memory, and
failures that become results.
"""

import gc
import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from hpdm.config import Config, load_config
from hpdm.model.rin import set_attention_precision
from hpdm.support.environment import hardware, package_versions
from hpdm_eval.support.timing import memory_of_process, reset_peak_memory

MEASURED, FAILED, LEFT_OUT = "measured", "failed", "left out"
GIB = 2**30
# Autocast dtype, TF32, dtype of attention alone: how all of a network is run.
PRECISIONS = {
    "fp32": (None, False, "fp32"),
    "tf32": (None, True, "fp32"),
    "attention-bf16": (None, True, "bf16"),
    "attention-fp16": (None, True, "fp16"),
    "bf16": (torch.bfloat16, True, "fp32"),
    "fp16": (torch.float16, True, "fp32"),
}
ROUNDS, SECONDS = 5, 2.0  # a case is timed at most this often, and no further once this long; in a rehearsal once


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the whole run shares; small enough to send to the worker."""

    device: str  # "cuda", "cuda:1" or "cpu"
    rehearse: bool  # the same code on tiny sizes
    seed: int
    only: tuple[str, ...] = ()  # beginnings of item names; empty: all


@dataclass(frozen=True, kw_only=True)
class Item:
    """A part of the run that is started or left out as a whole."""

    name: str  # "subject/part"
    cost: float  # seconds on a large GPU, about; in a rehearsal on two processor cores
    run: Callable[["Bench"], Iterator["Result"]]

    @property
    def subject(self) -> str:
        return self.name.split("/")[0]


@dataclass(kw_only=True)
class Result:
    """One figure; the run adds where it comes from."""

    what: str
    settings: dict
    value: float | None = None
    unit: str | None = None
    details: dict = field(default_factory=dict)
    status: str = MEASURED
    reason: str | None = None

    def to_dict(self) -> dict:
        return asdict(self)


class DeviceLost(Exception):
    """The device gives errors for everything: only a new process can go on."""


class Bench:
    """The measuring side of a run: one per process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device = torch.device(settings.device)
        self.rehearse, self.seed = settings.rehearse, settings.seed
        self.facts = {}  # what earlier items found, from the run: {"roof": {precision: FLOP/s}}
        self._kept = None
        torch.manual_seed(settings.seed)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def describe(self) -> dict:
        """The device and versions, for every record."""
        device = {"name": hardware(self.device), "type": self.device.type}
        if self.on_gpu:
            properties = torch.cuda.get_device_properties(self.device)
            device |= {
                "name": properties.name,
                "memory_gib": round(properties.total_memory / GIB, 1),
                "capability": f"{properties.major}.{properties.minor}",
                "multiprocessors": properties.multi_processor_count,
            }
        versions = package_versions() | {"torch": torch.__version__, "cuda": torch.version.cuda}
        return {"device": device, "versions": versions | {"cudnn": torch.backends.cudnn.version()}}

    def size(self, size: str) -> str:
        """The size that stands in for `size`: nano in a rehearsal."""
        return "nano" if self.rehearse else size

    def few(self, count: int) -> int:
        """`count`, or 2 where it is more in a rehearsal."""
        return min(count, 2) if self.rehearse else count

    def config(self, size: str, *overrides: str) -> Config:
        """The configuration of `self.size(size)` with LAMB and without activation checkpointing."""
        return load_config(
            self.size(size),
            [
                "training.activation_checkpointing=false",
                "training.micro_batch=null",
                "training.optimizer=lamb",
                f"training.seed={self.seed}",
                *overrides,
            ],
        )

    @contextmanager
    def tf32(self, precision: str) -> Iterator[None]:
        """Within the block TF32 is allowed, or not, as `precision` of PRECISIONS says: for forward and backward."""
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = PRECISIONS[precision][1]
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """Autocast of `precision` of PRECISIONS, a context for the forward pass; without effect where it has none."""
        dtype = PRECISIONS[precision][0]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    @contextmanager
    def precision(self, name: str, network: torch.nn.Module | None = None) -> Iterator[None]:
        """Within the block a network that is not trained runs in `name` of PRECISIONS, its attentions too."""
        if network is not None:
            set_attention_precision(network, PRECISIONS[name][2])
        with self.tf32(name), self.autocast(name):
            yield

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def clock(self) -> float:
        """Seconds, once the device has done all it was given."""
        self.synchronize()
        return time.perf_counter()

    def seconds(
        self, function: Callable[[], Any], *, rounds: int = ROUNDS, at_most: float = SECONDS, warm_up: int = 1
    ) -> float:
        """Median seconds of a call; fewer than `rounds` calls where they take longer than `at_most` together."""
        for _ in range(warm_up):
            function()
        taken, rounds = [], 1 if self.rehearse else rounds
        while len(taken) < rounds and sum(taken) < at_most:
            began = self.clock()
            function()
            taken.append(self.clock() - began)
        return statistics.median(taken)

    def reset_peak(self) -> None:
        """Let `peak_gib` start from now."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            reset_peak_memory()

    def peak_gib(self) -> float:
        """Most memory allocated on the device since `reset_peak`; on a processor the process's resident memory."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated(self.device) / GIB
        return memory_of_process()["peak"] / GIB

    def room_gib(self) -> float:
        """What this process could allocate in all."""
        if not self.on_gpu:
            return math.inf
        free, _ = torch.cuda.mem_get_info(self.device)
        return (free + torch.cuda.memory_reserved(self.device)) / GIB

    def attempt(self, what: str, settings: dict, measure: Callable[[], tuple[float, str, dict]]) -> Result:
        """`measure()` → (value, unit, details) as a result; what it raises becomes a result as well.

        Raises DeviceLost where the device does not recover.
        """
        try:
            value, unit, details = measure()
            return Result(what=what, settings=settings, value=value, unit=unit, details=details)
        except Exception as error:
            reason = reason_of(error)
            traceback.clear_frames(error.__traceback__)  # they hold tensors
        self.release()
        return Result(what=what, settings=settings, status=FAILED, reason=reason)

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """`make()`, or what it returned for the same key last time; of another key, it is dropped first."""
        if self._kept is None or self._kept[0] != key:
            self._kept = None
            self.collect()
            self._kept = key, make()
        return self._kept[1]

    def release(self) -> None:
        """Forget what `kept` holds and give all memory back."""
        self._kept = None
        self.collect()

    def collect(self) -> None:
        """Give memory back that nothing holds; raises DeviceLost where the device answers with errors only."""
        gc.collect()
        if not self.on_gpu:
            return
        try:
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            (torch.ones(8, device=self.device) + 1).sum().item()
        except RuntimeError as error:
            raise DeviceLost(reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    """One line that says what went wrong."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in str(error).lower():
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return f"out of memory: {first}"[:300]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


@torch.no_grad()
def wake(network: torch.nn.Module, seed: int) -> None:
    """Draw small values for matrices and norms that start at zero: their zeros would hide the gradient of the rest."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if name.endswith("weight") and not parameter.any():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return network
