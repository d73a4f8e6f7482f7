"""In which precision a pass runs, and whether its gradients have come to every parameter."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor


class MissingGradients(Exception):
    """The first step left parameters without a finite gradient: they would never be trained."""


def mixed_precision(device: torch.device | str, precision: str) -> AbstractContextManager:
    """Context of forward passes in a `training.precision`: autocast to bf16, or nothing.

    Autocast keeps no cast weights. It would take those of a pass without gradient, which carry no graph, for the pass
    with gradient that follows in the same context, and the weights would get no gradient: latent self-conditioning
    makes such a pair in every step. A pass uses each large weight once, so keeping casts would save nothing.

    This rather than FSDP2's `MixedPrecisionPolicy`: norms, learned tables and the residual streams of tokens and
    latents stay in fp32, and the numbers are those of DDP and of one process.
    """
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16, cache_enabled=False)


def check_gradients(network: nn.Module, processes: Any, *, finite: bool = True) -> None:
    """Raises MissingGradients, on every process alike, with the names of trainable parameters without a gradient.

    With `finite` also of those whose gradient is not finite. Call it after a backward pass of all samples of a step.
    """
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    flags = torch.tensor([_trouble(p.grad) for _, p in named], dtype=torch.int32, device=processes.device)
    flags = processes.greatest(flags).tolist()
    for kind, what in ((MISSING, "no gradient"), *([(NOT_FINITE, "a gradient that is not finite")] if finite else [])):
        names = [name for (name, _), flag in zip(named, flags, strict=True) if flag == kind]
        if names:
            raise MissingGradients(
                f"after the first step {len(names)} of {len(named)} trainable tensors have {what} and would not be "
                f"trained: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
            )


NOT_FINITE, MISSING = 1, 2
SHOWN = 20  # names in a message


def _trouble(gradient) -> int:
    if gradient is None:
        return MISSING
    part = gradient.to_local() if isinstance(gradient, DTensor) else gradient
    return 0 if bool(part.isfinite().all()) else NOT_FINITE
