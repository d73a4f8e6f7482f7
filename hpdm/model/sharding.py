"""Whole tensors into parameters that several processes may share out among themselves (FSDP2)."""

import sys
from collections.abc import Callable
from typing import Any

import torch

TENSORS = "torch.distributed.tensor"  # takes a second to import; where nobody has, no parameter is sharded


def like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor on the parameter's device, sharded as the parameter is."""
    if _is_sharded(parameter):
        return sys.modules[TENSORS].distribute_tensor(
            value.to(parameter.device), parameter.device_mesh, parameter.placements
        )
    return value.to(parameter.device)


@torch.no_grad()
def fill(parameter: torch.Tensor, initialise: Callable[..., Any], **options: Any) -> None:
    """`initialise(parameter, **options)`; of a sharded one every process draws the whole and keeps its part.

    So starting values do not depend on the number of processes, and no more than one parameter is ever whole.
    """
    if not _is_sharded(parameter):
        initialise(parameter, **options)
        return
    whole = torch.empty(parameter.shape, dtype=parameter.dtype)
    initialise(whole, **options)
    parameter.copy_(like(whole, parameter))


def _is_sharded(parameter):
    return TENSORS in sys.modules and isinstance(parameter, sys.modules[TENSORS].DTensor)
