"""Moments of features: what a Fréchet distance needs of a set of clips, gathered batch by batch.

Shapes: N clips, D features.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch

from hpdm.support.errors import InputError
from hpdm_eval.support.threads import one_thread

Features: TypeAlias = np.ndarray | torch.Tensor  # [N, D], of any float type


class Moments:
    """Count, mean and scatter of features, gathered batch by batch in float64 and mergeable across processes.

    n: int; mean: float64 [D]; scatter: float64 [D, D], the sum of outer products of deviations from the mean.
    Batches are joined by the pairwise update of Chan, Golub and LeVeque, which does not cancel for a large mean.
    """

    def __init__(self, dimension: int) -> None:
        self.n = 0
        self.mean = np.zeros(dimension)
        self.scatter = np.zeros((dimension, dimension))

    @classmethod
    def of(cls, features: Features) -> Moments:
        """Moments of one array or tensor of features [N, D]."""
        features = as_features(features)
        return cls(features.shape[1]).update(features)

    @classmethod
    def from_arrays(cls, mean: np.ndarray, cov: np.ndarray, n: int) -> Moments:
        """Moments from mean [D], covariance [D, D] with N - 1 in the denominator, and the count N >= 2."""
        moments = cls(len(mean))
        moments.n = int(n)
        moments.mean = np.array(mean, np.float64)
        moments.scatter = np.array(cov, np.float64) * (moments.n - 1)
        return moments

    def to_arrays(self) -> dict[str, Any]:
        """Inverse of `from_arrays`: {"mean": [D], "cov": [D, D] over N - 1, "n": int64 scalar}."""
        return {"mean": self.mean, "cov": self.cov(ddof=1), "n": np.int64(self.n)}

    @property
    def dimension(self) -> int:
        return len(self.mean)

    @one_thread()
    def update(self, features: Features) -> Moments:
        """Add features [B, D] of any float type, array or tensor; returns self."""
        features = as_features(features)
        if features.shape[1] != self.dimension:
            raise InputError(
                f"features have {features.shape[1]} dimensions, the moments {self.dimension}; "
                "both must come from the same backbone"
            )
        batch = Moments(self.dimension)
        batch.n = len(features)
        batch.mean = features.mean(axis=0)
        deviations = features - batch.mean
        batch.scatter = deviations.T @ deviations
        return self.merge(batch)

    def merge(self, other: Moments) -> Moments:
        """Add what another process has gathered; returns self."""
        if other.n == 0:
            return self
        total = self.n + other.n
        shift = other.mean - self.mean
        self.scatter = self.scatter + other.scatter + np.outer(shift, shift) * (self.n * other.n / total)
        self.mean = self.mean + shift * (other.n / total)
        self.n = total
        return self

    def cov(self, ddof: int = 1) -> np.ndarray:
        """Covariance [D, D] with N - ddof in the denominator; raises InputError for fewer than two clips."""
        return self.scatter / denominator(self.n, ddof)


def as_features(features: Features) -> np.ndarray:
    """Float64 array [N, D] of finite values."""
    if isinstance(features, torch.Tensor):
        features = features.detach().cpu().to(torch.float64).numpy()
    features = np.asarray(features, np.float64)
    if features.ndim != 2:
        raise InputError(f"features must be [clips, dimensions], got an array of shape {list(features.shape)}")
    if not np.isfinite(features).all():
        row = int(np.argmin(np.isfinite(features).all(axis=1)))
        raise InputError(f"features of clip {row} are not finite; check the backbone's weights and precision")
    return features


def denominator(n: int, ddof: int) -> int:
    if n < 2:
        raise InputError(f"a Fréchet distance needs at least 2 clips on each side, got {n}")
    return n - ddof
