"""Several processes on one run, as `torchrun` starts them: DDP, FSDP2 or HSDP, gloo on CPUs and nccl on GPUs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from hpdm.model.conditioning import no_conditions
from hpdm.model.rin import seed_samples
from hpdm.support.environment import check_meeting_point, choose_device, processes_here
from hpdm.support.errors import InputError
from hpdm.training.precision import mixed_precision

if TYPE_CHECKING:
    from hpdm.methods import Method


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process' place among those of the run."""

    rank: int
    world_size: int
    device: torch.device
    group: object = None  # in which they talk about other things than tensors of the device; None: all of them

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """`values` averaged over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def agreed(self, function: Callable[[], Any]) -> Any:
        """What `function` returns on the first process, on all of them; an InputError of it is raised on all."""
        if self.world_size == 1:
            return function()
        outcome: list[Any] = [None]
        if self.first:
            try:
                outcome = [function()]
            except InputError as error:
                outcome = [InputError(str(error))]
        dist.broadcast_object_list(outcome, device=self.device if self.device.type == "cuda" else None)
        if isinstance(outcome[0], InputError):
            raise outcome[0]
        return outcome[0]

    def greatest(self, values: torch.Tensor) -> torch.Tensor:
        """The largest of each of `values` over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on one of the processes."""
        if self.world_size == 1:
            return bool(flag)
        value = torch.tensor([float(flag)], device="cpu" if self.group is not None else self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self.group)
        return bool(value)

    def from_first(self, value: Any) -> Any:
        """The first process' `value`, which can be pickled, on all of them."""
        values = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def of_all(self, value: Any) -> list:
        """The `value` of every process, in the order of their ranks."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value, group=self.group)
        return values

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.world_size > 1:
            dist.barrier()

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The block runs on the first process, then on the others: what it caches on disk is there for them."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


@contextmanager
def processes(device_name: str) -> "Iterator[Processes]":
    """Join the processes that `torchrun` started, if it did, for the length of the block; yields `Processes`.

    Where the caller has joined them already, they stay joined after it.
    """
    device = choose_device(device_name)
    world_size = processes_here().world_size
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Processes(rank=0, world_size=1, device=device)
        return
    joined = not dist.is_initialized()
    if joined:
        check_meeting_point()
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    # Flags go from processor to processor: asking a GPU for them would make it wait.
    group = dist.new_group(backend="gloo") if device.type == "cuda" else None
    try:
        yield Processes(rank=dist.get_rank(), world_size=world_size, device=device, group=group)
    finally:
        if joined:
            dist.destroy_process_group()


def shard(network: nn.Module, processes: Processes, *, reshard: bool = True, shards: int | None = None) -> None:
    """Shard an HPDM's weights in place (FSDP2), block by block; frozen ones stay whole.

    `shards` neighbouring processes share a copy, all of them if None. `reshard=False` keeps a block's weights whole
    from its forward to its backward pass.
    """
    size, shards = processes.world_size, shards or processes.world_size
    if shards == size:
        mesh = init_device_mesh(processes.device.type, (size,))
    else:
        mesh = init_device_mesh(processes.device.type, (size // shards, shards), mesh_dim_names=("replicate", "shard"))
    for block in network.blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
    frozen = {p for p in network.parameters() if not p.requires_grad}
    # What lies outside the blocks is small and needed at both ends of a pass: it stays whole in between.
    fully_shard(network, mesh=mesh, reshard_after_forward=False, **({"ignored_params": frozen} if frozen else {}))


def whole_bytes(network: nn.Module) -> int:
    """What `gathered` takes beside the shards, in bytes, on every process; 0 for a network without shards."""
    return sum(p.numel() * p.element_size() for p in network.parameters() if isinstance(p, DTensor))


@contextmanager
def gathered(network: nn.Module) -> Iterator[nn.Module]:
    """Within the block every process holds all weights of a sharded network and may call any part of it by itself."""
    sharded = [module for module in network.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
    try:
        yield network
    finally:
        for module in sharded:
            module.reshard()


def replicate(network: nn.Module, processes: Processes) -> nn.Module:
    """What to call in training so that gradients are averaged over processes: the network, or its DDP wrapper."""
    if processes.world_size == 1 or isinstance(network, FSDPModule):
        return network
    # There is nothing in the buffers but constants.
    return DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)


def settle(model: nn.Module, method: "Method", precision: str, device: torch.device) -> None:
    """Have DDP of three or more processes arrange its buckets of gradients before the first step.

    It arranges them by the first backward pass, and in another bucket so many processes add up in another order. A run
    that goes on would else differ in the last bits from one that was never stopped. Of two the order does not matter.
    """
    if not isinstance(model, DistributedDataParallel) or dist.get_world_size() < 3:
        return
    network = method.config.network
    video = torch.zeros(1, 3, *method.video_size, dtype=torch.uint8, device=device)
    seed_samples(model, [0])
    with mixed_precision(device, precision):
        loss = method.loss(model, video, no_conditions(network, 1, device), step=0, positions=range(1)).mean()
    loss.backward()
    model.zero_grad()


@contextmanager
def gradient_sync(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Average gradients over processes in backward passes within the block, or only accumulate them.

    Where there are several sharded copies, gradients are shared out within a copy in every pass, between its close
    neighbours, so that none stays whole; sums over copies wait for the last pass.
    """
    if isinstance(model, FSDPModule):
        if _has_copies(model):
            model.set_requires_all_reduce(enabled)
        else:
            model.set_requires_gradient_sync(enabled)
        yield
    elif isinstance(model, DistributedDataParallel) and not enabled:
        with model.no_sync():
            yield
    else:
        yield


def _has_copies(model):
    """Whether a sharded network has several copies."""
    return any(isinstance(p, DTensor) and p.device_mesh.ndim > 1 for p in model.parameters())
