"""LAMB or AdamW over two groups of parameters, and the learning rate of each step.

The rule: biases, norms and embeddings (learned latents, positions, class table) have neither weight decay nor LAMB's
trust ratio; everything else, the weight matrices, has both.

The trust ratio makes a step as large as the learning rate times the norm of the matrix. One that starts at zero stays
near it: on the published schedules the output's matrix grows e-fold in hundreds of steps, from what its first step
left. `leave_zero` gives such matrices small random numbers.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from hpdm.model.sharding import fill
from hpdm.training.lamb import Lamb
from hpdm.training.loss import seed_starting_values

if TYPE_CHECKING:
    from hpdm.config.training import TrainingConfig


LAMB_START_GAIN = 0.5  # 0.02 at the published widths
SHORT_STEP = 1e-3  # a first learning rate below it, that of a long warm-up, leaves a zero matrix next to zero


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for an optimizer, named "decay" and "no decay"; `network` is an HPDM, sharded or not.

    What a method keeps frozen is in neither.
    """
    exempt = network.no_decay_parameters()
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    return [
        {"name": "decay", "params": [p for n, p in named if n not in exempt], "weight_decay": weight_decay},
        {"name": "no decay", "params": [p for n, p in named if n in exempt], "weight_decay": 0.0},
    ]


def describe_groups(groups: Sequence[dict]) -> str:
    """One line with the number of tensors and of parameters of each group."""
    return "; ".join(
        f"{group['name']}: {len(group['params'])} tensors, {sum(p.numel() for p in group['params']):,} parameters"
        for group in groups
    )


def make_optimizer(network: nn.Module, config: "TrainingConfig") -> torch.optim.Optimizer:
    """The optimizer that a `TrainingConfig` names, over all parameters of `network`."""
    groups = parameter_groups(network, config.weight_decay)
    sharded = any(isinstance(p, DTensor) for p in network.parameters())
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, foreach=not sharded)
    for group in groups:
        group["trust_ratio"] = group["name"] == "decay"
    return Lamb(groups, lr=config.lr, betas=config.betas, eps=config.eps)


@torch.no_grad()
def leave_zero(network: nn.Module, config: "TrainingConfig") -> list[str]:
    """Draw the matrices that start at zero, where the optimizer has a trust ratio for them; returns their names.

    They become normal with `start_gain` times the standard deviation of Glorot and Bengio (2010), sqrt(2 / (inputs +
    outputs)). Call it on a network that has its starting values, sharded or not. Unless `start_gain` of the
    `TrainingConfig` says so, nothing is done for AdamW, nor for LAMB whose first step is longer than `SHORT_STEP`: a
    first step has no trust ratio on a zero matrix.
    """
    gain = config.start_gain
    if gain is None:
        short = config.optimizer == "lamb" and learning_rate(config, 0) < SHORT_STEP
        gain = LAMB_START_GAIN if short else 0.0
    if not gain:
        return []
    seed_starting_values(config.seed)
    exempt, drawn = network.no_decay_parameters(), []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and name not in exempt and _is_zero(parameter):
            fill(parameter, nn.init.xavier_normal_, gain=gain)
            drawn.append(name)
    return drawn


def _is_zero(parameter):
    largest = parameter.detach().abs().max()
    return not bool(largest.full_tensor() if isinstance(largest, DTensor) else largest)


def learning_rate(config: "TrainingConfig", step: int) -> float:
    """Learning rate of step 0, 1, ... of a `TrainingConfig`: linear warm-up, then its schedule."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
