"""Whole tensors into parameters that several processes may share out among themselves (FSDP2)."""

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor on the parameter's device, sharded as the parameter is."""
    if isinstance(parameter, DTensor):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value.to(parameter.device)


@torch.no_grad()
def fill(parameter: torch.Tensor, initialise, **options):
    """`initialise(parameter, **options)`; of a sharded one every process draws the whole and keeps its part.

    So starting values do not depend on the number of processes, and no more than one parameter is ever whole.
    """
    if not isinstance(parameter, DTensor):
        initialise(parameter, **options)
        return
    whole = torch.empty(parameter.shape, dtype=parameter.dtype)
    initialise(whole, **options)
    parameter.copy_(like(whole, parameter))
