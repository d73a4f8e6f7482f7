"""Class accuracy: how often a classifier sees in a sample the class that it was asked for.

N samples, K classes.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hpdm.support.errors import InputError

_IN_NAME = re.compile(r"_c(\d+)(?:\.[a-z0-9]+)?(?:#\d+)?$")


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The share of samples that are classified as asked for, with its uncertainty, and where the others went."""

    value: float
    ci95: tuple[float, float]  # Wilson's score interval
    per_class: list[float | None]  # None for a class without samples
    confusion: np.ndarray  # int64 [K, K], rows asked for, columns seen


def class_accuracy(probabilities: ArrayLike, labels: ArrayLike) -> Accuracy:
    """Accuracy of probabilities or logits float [N, K] against labels int [N] in 0 .. K-1."""
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    count, classes = probabilities.shape
    if len(labels) != count or count == 0:
        raise ValueError(f"{len(labels)} labels for {count} samples")
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"labels reach from {labels.min()} to {labels.max()}, but the classifier knows {classes} classes"
        )
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, probabilities.argmax(1)), 1)
    totals, right = confusion.sum(1), confusion.diagonal()
    return Accuracy(
        value=float(right.sum() / count),
        ci95=wilson_interval(int(right.sum()), count),
        per_class=[float(r / n) if n else None for r, n in zip(right, totals)],
        confusion=confusion,
    )


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion; it stays in [0, 1] and holds its level for small counts."""
    share = successes / trials
    middle = share + z * z / (2 * trials)
    half = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, float((middle - half) / scale)), min(1.0, float((middle + half) / scale))


def label_in_name(name: str) -> int:
    """The class that `hpdm-sample` writes into a file's name: 00012_c003.mp4 → 3; InputError for other names."""
    match = _IN_NAME.search(name)
    if not match:
        raise InputError(f"{name} does not end in its class, as 00012_c003.mp4 does")
    return int(match[1])
