"""Attribute accuracy: whether a network's features show in a sample what its text asked for.

An attribute is read out of features by a ridge regression onto its values, fitted on real clips whose attributes are
known. N clips, D feature dimensions, K values.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hpdm_eval.metrics.accuracy import wilson_interval


@dataclass(frozen=True, kw_only=True)
class Readout:
    """From features to the value of one attribute."""

    values: tuple[str, ...]
    mean: np.ndarray  # float64 [D]
    scale: np.ndarray  # float64 [D]
    weights: np.ndarray  # float64 [D + 1, K]

    def __call__(self, features: ArrayLike) -> list[str]:
        """The value that each row of features [N, D] shows."""
        normed = (np.asarray(features, np.float64) - self.mean) / self.scale
        scores = np.column_stack([normed, np.ones(len(normed))]) @ self.weights
        return [self.values[index] for index in scores.argmax(1)]


def fit_readout(features: ArrayLike, labels: Sequence[str], penalty: float = 1e-3) -> Readout:
    """Fit on features [N, D] of real clips with the attribute's values `labels`; `penalty` per clip and dimension."""
    features, values = np.asarray(features, np.float64), tuple(sorted(set(labels)))
    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 0, scale, 1)  # a dead dimension says nothing
    design = np.column_stack([(features - mean) / scale, np.ones(len(features))])
    targets = np.array([[label == value for value in values] for label in labels], np.float64)
    gram = design.T @ design
    ridge = penalty * len(features) * np.eye(len(gram))
    ridge[-1, -1] = 0  # the constant is not shrunken
    return Readout(values=values, mean=mean, scale=scale, weights=np.linalg.solve(gram + ridge, design.T @ targets))


def attribute_accuracy(seen: Iterable[str], asked: Iterable[str | None]) -> dict:
    """Share of samples that show the value they were asked for: {"accuracy", "low", "high", "samples"}.

    seen, asked: values; None in `asked` where a text leaves the attribute open. The interval is Wilson's at 95 %.
    """
    pairs = [(value, wanted) for value, wanted in zip(seen, asked, strict=True) if wanted is not None]
    if not pairs:
        raise ValueError("no sample was asked for this attribute")
    right = sum(value == wanted for value, wanted in pairs)
    low, high = wilson_interval(right, len(pairs))
    return {"accuracy": right / len(pairs), "low": low, "high": high, "samples": len(pairs)}
