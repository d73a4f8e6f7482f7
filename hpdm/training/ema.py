"""Moving averages of all weights, in fp32.

EMA: the average that is sampled from; half-life with ramp-up as in EDM (Karras et al. 2022, arXiv 2206.00364): early on
it forgets faster, so that starting values leave it.
PowerEMA: a trace for post-hoc EMA, with the power-function profile of EDM2 (Karras et al. 2024, arXiv 2312.02696,
section 3.1): the weight of step tau in the average at step t goes with tau^gamma, so its length is a share of the run.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process' part of a tensor: the shard of a DTensor, the tensor itself otherwise; shares memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Average:
    """Averages every parameter of `network`, on each process the part that it holds.

    Shards are averaged as plain tensors, so nothing depends on what an operation does with a DTensor.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network
        self.names = [name for name, _ in network.named_parameters()]
        self.average = [p.float().clone() for p in self._weights()]

    def decay(self, updates: int) -> float:
        """Weight of the old average at the given update, counted from 1."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the network's present weights as update number `updates`, counted from 1."""
        weights = [p if p.dtype == torch.float32 else p.float() for p in self._weights()]
        torch._foreach_lerp_(self.average, weights, 1 - self.decay(updates))

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[nn.Module]:
        """Within the block the network has the averaged weights."""
        weights = self._weights()
        kept = [p.clone() for p in weights]
        self._replace(weights, self.average)
        try:
            yield self.network
        finally:
            self._replace(weights, kept)

    def named_averages(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, average) of every parameter: DTensors laid out like the parameter where it is one."""
        for (name, parameter), average in zip(self.network.named_parameters(), self.average, strict=True):
            if isinstance(parameter, DTensor):
                average = DTensor.from_local(
                    average,
                    parameter.device_mesh,
                    parameter.placements,
                    run_check=False,
                    shape=parameter.shape,
                    stride=parameter.stride(),
                )
            yield name, average

    def _replace(self, weights, values):
        torch._foreach_copy_(weights, values)
        if isinstance(self.network, FSDPModule):
            self.network.reshard()  # after a forward without backward the root keeps whole copies of its old weights

    def _weights(self):
        return [local(p.detach()) for p in self.network.parameters()]


class EMA(Average):
    """Exponential average: weights of `half_life` updates ago count half; early on, of `ramp_up` times all updates."""

    def __init__(self, network: torch.nn.Module, half_life: float, ramp_up: float) -> None:
        super().__init__(network)
        self.half_life, self.ramp_up = half_life, ramp_up

    def decay(self, updates: int) -> float:
        half_life = min(self.half_life, self.ramp_up * updates)
        return 0.5 ** (1 / half_life) if half_life > 0 else 0.0


class PowerEMA(Average):
    """Average with EDM2's power-function profile of relative width `sigma_rel` (section 3.1).

    With decay (1 - 1/t)^(gamma + 1) the weights after update i count ((i/t)^(gamma+1) - ((i-1)/t)^(gamma+1)) at update
    t, which is the profile's integral over the update, exactly. Starting values do not count.
    """

    def __init__(self, network: torch.nn.Module, sigma_rel: float) -> None:
        super().__init__(network)
        self.sigma_rel, self.gamma = sigma_rel, gamma_of(sigma_rel)

    def decay(self, updates: int) -> float:
        return (1 - 1 / updates) ** (self.gamma + 1)


def gamma_of(sigma_rel: float) -> float:
    """Exponent of the profile whose standard deviation is `sigma_rel` of its length; 12^-0.5 is a mean of all steps.

    sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), solved for its largest root (EDM2, section 3.1).
    """
    s = float(sigma_rel) ** -2
    return max(0.0, np.roots([1, 7, 16 - s, 12 - s]).real.max().item())
