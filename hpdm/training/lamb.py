"""LAMB (You et al. 2019, arXiv 1904.00962, algorithm 2): Adam whose steps are as long as the matrix they change."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.distributed.tensor import DTensor

CHUNK = 1 << 24  # numbers in one call of the kernels for many tensors; their two temporaries take 128 MiB in fp32


class Lamb(torch.optim.Optimizer):
    """Groups say `weight_decay` and `trust_ratio`: without the latter a group's steps are Adam's.

    Weight decay is part of the step, as in the paper, and bias correction is on. Gradients are not clipped here.
    Parameters may be sharded (DTensor); norms are always of the whole matrix.
    """

    def __init__(self, groups: Iterable[dict], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "trust_ratio": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on all parameters that have a gradient; returns what `closure` does, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["step"] = torch.as_tensor(group.get("step", 0.0), dtype=torch.float32) + 1
            for parameters in _chunks(p for p in group["params"] if p.grad is not None):
                self._step(group, parameters)
        return loss

    def _step(self, group: dict, parameters: list[torch.Tensor]) -> None:
        gradients = [p.grad for p in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] |= {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        means = [self.state[p]["exp_avg"] for p in parameters]
        squares = [self.state[p]["exp_avg_sq"] for p in parameters]
        (beta1, beta2), count = group["betas"], group["step"].item()
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)

        # m_hat / (sqrt(v_hat) + eps) = scale * m / (sqrt(v) + eps * sqrt(1 - beta2^t)), which saves two passes
        root = (1 - beta2**count) ** 0.5
        scale = root / (1 - beta1**count)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_add_(denominators, group["eps"] * root)
        updates = torch._foreach_div(means, denominators)
        if group["weight_decay"]:
            torch._foreach_add_(updates, parameters, alpha=group["weight_decay"] / scale)
        if not group["trust_ratio"]:
            torch._foreach_add_(parameters, updates, alpha=-group["lr"] * scale)
            return
        lengths, steps = _norms(parameters), _norms(updates) * scale
        ratios = torch.where((lengths > 0) & (steps > 0), lengths / steps, 1.0)
        for parameter, update, size in zip(
            parameters, updates, (ratios * (-group["lr"] * scale)).unbind(), strict=True
        ):
            parameter.addcmul_(update, size)


def _norms(tensors: list[torch.Tensor]) -> torch.Tensor:
    norms = torch._foreach_norm(tensors)
    return torch.stack([norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms])


def _chunks(parameters: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Lists of at most `CHUNK` numbers, or of one larger tensor."""
    chunk: list[torch.Tensor] = []
    size = 0
    for parameter in parameters:
        if chunk and size + parameter.numel() > CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append(parameter)
        size += parameter.numel()
    if chunk:
        yield chunk
