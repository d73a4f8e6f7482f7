"""Precision, recall (Kynkäänniemi et al., arXiv 1904.06991), density and coverage (Naeem et al., arXiv 2002.09797).

The ball of a clip reaches to its k-th nearest neighbour in its own set. With real clips x_i and generated clips y_j:

    precision   share of y_j inside the ball of any x_i
    recall      share of x_i inside the ball of any y_j
    density     balls of real clips that y_j lies in, mean over j, divided by k: about 1 for sets alike, can be above
    coverage    share of x_i whose ball holds any y_j

"Inside" is strictly inside. One outlier among the real clips inflates precision, one among the generated ones recall;
density and coverage stand that better. All four depend on N, M and k. Distances are Euclidean, in float64, computed a
block of rows at a time: memory grows with N + M, not with their product.

Shapes: reference x [N, D], samples y [M, D].
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hpdm.support.errors import InputError
from hpdm_eval.features.moments import Features
from hpdm_eval.metrics.settings import MetricSettings

NEIGHBOURS = 5
BLOCK_ELEMENTS = 1 << 23  # distances held at once, 64 MiB


@dataclass(frozen=True, kw_only=True)
class Prdc:
    """The four figures and the number of neighbours."""

    precision: float
    recall: float
    density: float
    coverage: float
    k: int


def prdc(samples: Features, reference: Features, k: int = NEIGHBOURS, *, block: int | None = None) -> Prdc:
    """`Prdc` of features `samples` [M, D] against `reference` [N, D].

    block: rows of distances at a time; None bounds their memory. Raises InputError where a set does not have more than
    k clips, for unequal dimensions, and for values that are not finite.
    """
    samples, reference = (np.asarray(side, np.float64) for side in (samples, reference))
    if samples.ndim != 2 or reference.ndim != 2 or samples.shape[1] != reference.shape[1]:
        raise InputError(
            f"features of both sides must be [clips, dimensions] of one backbone, got "
            f"{list(samples.shape)} and {list(reference.shape)}"
        )
    if k < 1 or min(len(samples), len(reference)) <= k:
        raise InputError(
            f"{k} nearest neighbours need more than {k} clips on each side, got {len(samples)} samples "
            f"and {len(reference)} of the reference; give more clips or a smaller -k"
        )
    if not (np.isfinite(samples).all() and np.isfinite(reference).all()):
        raise InputError("features are not finite; check the backbone's weights and precision")
    # distances by |a|² + |b|² - 2ab lose digits far from the origin
    centre = reference.mean(axis=0)
    samples, reference = samples - centre, reference - centre
    block = block or max(BLOCK_ELEMENTS // max(len(samples), len(reference)), 1)

    real_radius, fake_radius = (_radii(side, k, block) for side in (reference, samples))
    inside_real = np.zeros(len(samples), np.int64)  # balls of real clips that hold each sample
    recalled, covered = np.zeros(len(reference), bool), np.zeros(len(reference), bool)
    for rows in _blocks(len(reference), block):
        squares = _squared_distances(reference[rows], samples)
        inside = squares < real_radius[rows, None]
        inside_real += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = (squares < fake_radius).any(axis=1)
    return Prdc(
        precision=float((inside_real > 0).mean()),
        recall=float(recalled.mean()),
        density=float(inside_real.mean() / k),
        coverage=float(covered.mean()),
        k=k,
    )


def _radii(features, k, block):
    """Squared distance of each clip to its k-th nearest other clip, [N]."""
    radii = np.empty(len(features))
    for rows in _blocks(len(features), block):
        squares = _squared_distances(features[rows], features)
        squares[np.arange(squares.shape[0]), np.arange(len(features))[rows]] = np.inf
        radii[rows] = np.partition(squares, k - 1, axis=1)[:, k - 1]
    return radii


def _squared_distances(a, b):
    from sklearn.metrics.pairwise import euclidean_distances  # takes a second to import

    return euclidean_distances(a, b, squared=True)


def _blocks(length, block):
    from sklearn.utils import gen_batches

    return list(gen_batches(length, block))


FIGURES = ("precision", "recall", "density", "coverage")


def prdc_figures(samples: Any, reference: Any, settings: MetricSettings) -> dict[str, Any]:
    """The record's fields of two `Side`s that hold features; its value is the coverage. Option: neighbours."""
    neighbours = settings["neighbours"]
    found = prdc(samples.need_features("prdc"), reference.need_features("prdc"), neighbours)
    details = tuple({"figure": name, "value": getattr(found, name), "k": found.k} for name in FIGURES)
    return {"value": found.coverage, "details": details, "settings": {"neighbours": neighbours}}
