"""Equal training compute: how many steps of a method cost as much as a run of another.

Compute is FLOPs of matrix products and convolutions, counted by `hpdm.training.plan`. It leaves out what FLOPs do not
show: small products that use a device badly, memory traffic, data loading, and the cost of sampling.
"""

import dataclasses
from functools import lru_cache

from hpdm.config import Config
from hpdm.training.plan import count_flops


def training_cost(config: Config) -> float:
    """FLOPs of the whole schedule."""
    return _per_sample(config) * config.training.steps * config.training.batch


def fit_budget(config: Config, flops: float) -> Config:
    """`config` with as many steps as `flops` pay for, but one at least.

    Warm-up and the average's half-life keep their share of the steps.
    """
    training = config.training
    per_step = _per_sample(config) * training.batch
    steps = max(1, round(flops / per_step))
    share = steps / training.steps
    return dataclasses.replace(
        config,
        training=dataclasses.replace(
            training, steps=steps, warmup=round(training.warmup * share), ema_half_life=training.ema_half_life * share
        ),
    )


@lru_cache(maxsize=32)  # counting takes seconds, and all methods are compared with one
def _per_sample(config):
    return float(count_flops(config).training)
