"""One side of a comparison, as a metric sees it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hpdm.support.errors import InputError
from hpdm_eval.features.moments import Moments


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """Features of a set of clips, or what statistics hold of them."""

    moments: Moments
    features: np.ndarray | None  # float32 [N, D]; None for statistics that were stored without, and for frames
    probabilities: np.ndarray | None  # float32 [N, K] of a classifier
    summary: dict[str, Any]  # the record's entry: {"path", "sha256", "clips", "rejected"}
    sources: list[str] | None = None  # of each clip, where several come from one video; None: all are independent

    @property
    def count(self) -> int:
        """Number of clips."""
        return self.summary["clips"]

    @property
    def distribution(self) -> np.ndarray | Moments:
        """Features [N, D] where there are any, else `Moments`."""
        return self.moments if self.features is None else self.features

    def need_features(self, metric: str) -> np.ndarray:
        """Features [N, D]; InputError for statistics that were stored without."""
        if self.features is None:
            raise InputError(
                f"{self.summary['statistics']} holds no features of single clips, and {metric} needs "
                "them; make it again with `hpdm-eval stats --keep-features`, or give the clips"
            )
        return self.features

    def rows(self, rows: np.ndarray) -> "Side":
        """The same of some of the clips, by their numbers; for resampling, so `moments` are computed anew."""
        features = None if self.features is None else self.features[rows]
        return Side(
            moments=self.moments if features is None else Moments.of(features),
            features=features,
            probabilities=None if self.probabilities is None else self.probabilities[rows],
            summary={**self.summary, "clips": len(rows)},
            sources=None if self.sources is None else [self.sources[row] for row in rows],
        )
