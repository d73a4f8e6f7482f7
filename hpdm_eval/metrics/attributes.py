"""Attribute accuracy: whether a network's features show in a sample what its text asked for.

An attribute is read out of features by a ridge regression onto its values, fitted on real clips whose attributes are
known. N clips, D feature dimensions, K values.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from hpdm_eval.metrics.accuracy import wilson_interval

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Readout:
    """From features to the value of one attribute."""

    classifier: "Pipeline"  # standardised features → ridge regression onto the values

    @property
    def values(self) -> tuple[str, ...]:
        """The values there are, sorted."""
        return tuple(self.classifier.classes_.tolist())

    def __call__(self, features: ArrayLike) -> list[str]:
        """The value that each row of features [N, D] shows."""
        return self.classifier.predict(np.asarray(features, np.float64)).tolist()


def fit_readout(features: ArrayLike, labels: Sequence[str], penalty: float = 1e-3) -> Readout:
    """Fit on features [N, D] of real clips with the attribute's values `labels`; `penalty` per clip and dimension."""
    from sklearn.linear_model import RidgeClassifier  # takes a second to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.asarray(features, np.float64)
    classifier = make_pipeline(StandardScaler(), RidgeClassifier(alpha=penalty * len(features)))
    return Readout(classifier=classifier.fit(features, np.asarray(labels)))


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
