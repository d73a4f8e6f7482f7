"""An exponential moving average of all weights, in fp32.

Half-life with ramp-up as in EDM (Karras et al. 2022, arXiv 2206.00364): early on the average forgets faster, so that
starting values leave it.
"""

from contextlib import contextmanager

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process' part of a tensor: the shard of a DTensor, the tensor itself otherwise; shares memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class EMA:
    """Averages every parameter of `network`, on each process the part that it holds.

    Shards are averaged as plain tensors, so nothing depends on what an operation does with a DTensor.
    """

    def __init__(self, network: torch.nn.Module, half_life: float, ramp_up: float):
        self.network, self.half_life, self.ramp_up = network, half_life, ramp_up
        self.names = [name for name, _ in network.named_parameters()]
        self.average = [p.float().clone() for p in self._weights()]

    def decay(self, updates: int) -> float:
        """Weight of the old average at the given update, counted from 1."""
        half_life = min(self.half_life, self.ramp_up * updates)
        return 0.5 ** (1 / half_life) if half_life > 0 else 0.0

    @torch.no_grad()
    def update(self, updates: int):
        """Take in the network's present weights as update number `updates`, counted from 1."""
        weights = [p if p.dtype == torch.float32 else p.float() for p in self._weights()]
        torch._foreach_lerp_(self.average, weights, 1 - self.decay(updates))

    @contextmanager
    @torch.no_grad()
    def applied(self):
        """Within the block the network has the averaged weights."""
        weights = self._weights()
        kept = [p.clone() for p in weights]
        self._replace(weights, self.average)
        try:
            yield self.network
        finally:
            self._replace(weights, kept)

    def named_averages(self):
        """(name, average) of every parameter: DTensors laid out like the parameter where it is one."""
        for (name, parameter), average in zip(self.network.named_parameters(), self.average, strict=True):
            if isinstance(parameter, DTensor):
                average = DTensor.from_local(
                    average, parameter.device_mesh, parameter.placements,
                    run_check=False, shape=parameter.shape, stride=parameter.stride(),
                )
            yield name, average

    def _replace(self, weights, values):
        torch._foreach_copy_(weights, values)
        if isinstance(self.network, FSDPModule):
            self.network.reshard()  # after a forward without backward the root keeps whole copies of its old weights

    def _weights(self):
        return [local(p.detach()) for p in self.network.parameters()]
