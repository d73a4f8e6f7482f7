"""Inception Score (Salimans et al., arXiv 1606.03498): exp of the mean KL divergence of p(class | clip) from its mean.

    IS = exp (1/n sum_i KL(p_i | mean p)),   between 1 and the number of classes

It is computed on each of `splits` parts and averaged. A part of n clips has a mean p with sampling error of its own,
which biases the score low, the more the smaller the part: a classifier of 101 classes whose score is 94.2 in the limit
gets 93.7 from 10,000 clips as one part, 89.5 as ten parts, and 71.5 from 2,048 clips as ten. A figure without n and
splits says nothing.

n clips, K classes.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hpdm.support.errors import InputError
from hpdm_eval.metrics.settings import MetricSettings

SPLITS = 10
FEW_PER_CLASS = 5


class FewPerSplitWarning(UserWarning):
    """So few clips a split that the score is chiefly a matter of their number."""


@dataclass(frozen=True, kw_only=True)
class InceptionScore:
    """Mean and standard deviation (ddof 0; over splits, or over sets where there are several) of the score."""

    mean: float
    std: float
    n: int  # clips in all sets
    splits: int  # of each set
    loops: int = 1  # sets


def inception_score(probabilities: ArrayLike, splits: int = SPLITS, seed: int | None = 0) -> InceptionScore:
    """`InceptionScore` of class probabilities [n, K], one row a clip, in float64.

    The rows are shuffled by `seed` and cut into `splits` parts whose sizes differ by at most one; without shuffling,
    clips sorted by class would give each part a few classes only. seed=None keeps the order. Raises InputError for
    fewer clips than splits and for rows that are no probabilities; warns with FewPerSplitWarning.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2:
        raise InputError(f"class probabilities must be [clips, classes], got {list(probabilities.shape)}")
    n, classes = probabilities.shape
    if classes < 2:
        raise InputError("an Inception Score needs a network that tells classes apart; this one gives features only")
    if not 1 <= splits <= n:
        raise InputError(f"{n} clips cannot be split into {splits} parts; give --splits between 1 and {n}")
    if not (
        np.isfinite(probabilities).all()
        and (probabilities >= 0).all()
        and np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)
    ):
        raise InputError("class probabilities must be non-negative and sum to one for every clip")
    if n // splits < FEW_PER_CLASS * classes:
        warnings.warn(
            f"{n} clips in {splits} splits are about {n // splits} a split for {classes} classes: the score "
            "is biased low; compare it only with figures of equal n and splits",
            FewPerSplitWarning,
            stacklevel=2,
        )
    if seed is not None:
        probabilities = probabilities[np.random.default_rng(seed).permutation(n)]
    scores = [_score(probabilities[part * n // splits : (part + 1) * n // splits]) for part in range(splits)]
    return InceptionScore(mean=float(np.mean(scores)), std=float(np.std(scores)), n=n, splits=splits)


def looped_score(probabilities: ArrayLike, *, splits: int, loops: int, per_loop: int, seed: int = 0) -> InceptionScore:
    """`InceptionScore` over several independent sets, as TGANv2 publishes it: mean and spread of the sets' scores.

    The rows [n, K] are shuffled by `seed` and dealt into sets of `per_loop`; each is scored in `splits` parts. There
    are `loops` sets, or as many whole ones as n allows, at least one.
    """
    probabilities = np.asarray(probabilities, np.float64)
    n = len(probabilities)
    loops = max(min(loops, n // per_loop), 1)
    if loops == 1:
        return inception_score(probabilities, splits, seed)
    rows = np.random.default_rng(seed).permutation(n)[: loops * per_loop].reshape(loops, per_loop)
    scores = [inception_score(probabilities[own], splits, seed=None).mean for own in rows]
    return InceptionScore(
        mean=float(np.mean(scores)), std=float(np.std(scores)), n=loops * per_loop, splits=splits, loops=loops
    )


def _score(part):
    # a probability of 0 contributes 0 to the divergence; where p is positive the mean is too
    ratio = np.divide(part, part.mean(axis=0), out=np.ones_like(part), where=part > 0)
    return np.exp((part * np.log(ratio)).sum(axis=1).mean())


def inception_figures(samples: Any, reference: Any, settings: MetricSettings) -> dict[str, Any]:
    """The record's fields of a `Side` of a classifier; the clips are shuffled by the seed. Option: splits.

    The protocol's splits, where it has any, come before the option's; it may ask for several sets.
    """
    protocol, seed = settings.protocol, settings.seed
    splits, loops = protocol.is_splits or settings["splits"] or SPLITS, protocol.is_loops or 1
    if loops > 1:
        per_loop = (protocol.num_samples or samples.count) // loops
        score = looped_score(samples.probabilities, splits=splits, loops=loops, per_loop=per_loop, seed=seed)
        if score.loops < loops:
            warnings.warn(
                f"{score.loops} of the {loops} sets that {protocol.name} averages over: there are "
                f"{samples.count} samples and it takes {protocol.num_samples}",
                stacklevel=2,
            )
    else:
        score = inception_score(samples.probabilities, splits, seed)
    detail = {"figure": "is", "value": score.mean, "std": score.std, "n": score.n, "splits": score.splits}
    own = {"splits": splits}
    if loops > 1:
        detail["sets"] = own["sets"] = score.loops
    return {"value": score.mean, "details": (detail,), "settings": own}
