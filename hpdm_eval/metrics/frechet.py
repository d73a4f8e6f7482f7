"""Fréchet distance between two sets of features, seen as Gaussians.

    d² = |m_x - m_y|² + tr S_x + tr S_y - 2 tr (S_x S_y)^(1/2)        (Dowson & Landau 1982; FID, FVD: "distance" is d²)

No matrix square root is taken. With any factor F of a covariance, S = Fᵀ F, the last trace is the nuclear norm
of F_x F_yᵀ, the sum of its singular values. A factor comes
  - from features: R of the QR decomposition of the centred features over sqrt(N - ddof), no covariance is formed;
  - from stored moments: eigenvalues and eigenvectors of the covariance. Eigenvalues below D·eps of the largest are
    rounding and count as zero.
Both hold for N < D, where (S_x S_y) is singular and matrix square roots break down.

Error in units of tr S_x + tr S_y, against 50-digit arithmetic at 12 features and closed forms at 400: from features
under 1e-14 for condition numbers up to 1e12; from moments under 1e-14 up to 1e6, 1e-13 at 1e9 and 1e-11 at 1e12.
The covariance part is a difference of large terms: where it comes out below 4·r·eps of their sum (eps = 2.2e-16,
so 4e-13 at 400 features) it is rounding and reported as 0. Identical sets are at exactly 0.

The estimate is biased upwards by about 1/N, more so the more dimensions there are. With N < D it measures chiefly N;
such a result carries a `FewSamplesWarning` and is only comparable to one made from equally many clips.

Shapes: N clips, D features, r rows of a factor (at most min(N, D)).
"""

import warnings
from typing import TypeAlias

import numpy as np
import torch

from hpdm.support.errors import InputError
from hpdm_eval.features.moments import Features, Moments, as_features, denominator
from hpdm_eval.support.threads import one_thread

Side: TypeAlias = Features | Moments  # one of two sets of clips

ROOT = "qr-nuclear"  # this module's own way
SVD_ROOTS = {"fp32-svd": torch.float32, "fp64-svd": torch.float64}

EPS = np.finfo(np.float64).eps

# SVD of the TensorFlow lineage leaves singular values below this as they are instead of taking their root
LEGACY_THRESHOLD = 1e-10


class FewSamplesWarning(UserWarning):
    """Fewer clips than feature dimensions: the covariance is singular and the distance mostly sampling bias."""


def frechet_from_features(x: Features, y: Features, ddof: int = 1) -> float:
    """Squared Fréchet distance of features x [N, D] and y [M, D], as a float >= 0.

    `ddof` = 1 divides the covariances by N - 1, 0 by N. Warns with FewSamplesWarning where N or M is not above D.
    Raises InputError for fewer than two clips, unequal dimensions, or values that are not finite.
    """
    return frechet_distance(as_features(x), as_features(y), ddof=ddof)


def frechet_from_moments(a: Moments, b: Moments, ddof: int = 1) -> float:
    """The same from two `Moments`."""
    return frechet_distance(a, b, ddof=ddof)


@one_thread()
def frechet_distance(x: Side, y: Side, *, ddof: int = 1, root: str = ROOT) -> float:
    """Squared Fréchet distance; each side is an array or tensor of features [N, D] or a `Moments`.

    root: "qr-nuclear" is the method of this module in float64. So is "scipy-sqrtm": on covariances of full rank scipy's
    answer has the same digits, on others it depends on scipy's version and can be nonsense. "fp32-svd" and "fp64-svd"
    repeat the computation of older FVD code in its own precision, see `frechet_by_svd_roots`.
    """
    x, y = (side if isinstance(side, Moments) else as_features(side) for side in (x, y))
    if _dimension(x) != _dimension(y):
        raise InputError(
            f"the two sides have {_dimension(x)} and {_dimension(y)} features; both must come from the same backbone"
        )
    few = [str(_count(side)) for side in (x, y) if _count(side) <= _dimension(side)]
    if few:
        warnings.warn(
            f"{' and '.join(few)} clips for {_dimension(x)} features: the covariance is singular and the "
            "distance mostly sampling bias; compare it only with figures from equally many clips",
            FewSamplesWarning,
            stacklevel=3,
        )
    if root in SVD_ROOTS:
        return frechet_by_svd_roots(x, y, ddof=ddof, dtype=SVD_ROOTS[root])
    if root not in (ROOT, "scipy-sqrtm"):
        raise InputError(f"unknown square root {root!r}; choose qr-nuclear, scipy-sqrtm, fp32-svd or fp64-svd")
    (mean_x, factor_x), (mean_y, factor_y) = (_mean_and_factor(side, ddof) for side in (x, y))
    shift = mean_x - mean_y
    traces = np.square(factor_x).sum() + np.square(factor_y).sum()
    overlap = np.linalg.svd(factor_x @ factor_y.T, compute_uv=False)
    spread = traces - 2 * overlap.sum()
    if spread <= 4 * len(overlap) * EPS * traces:
        spread = 0.0
    return float(shift @ shift + spread)


def frechet_by_svd_roots(
    x: np.ndarray | Moments, y: np.ndarray | Moments, *, ddof: int = 1, dtype: torch.dtype = torch.float32
) -> float:
    """The distance as VideoGPT, DIGAN, PVDM and TATS compute it, in single precision, to compare with their figures.

    tr (S_x^(1/2) S_y S_x^(1/2))^(1/2), both roots by SVD, mean and covariance in `dtype` too. Rounding lifts the
    singular values of the inner product from about 0 to 1e-6 of the largest before the root is taken, so the
    result is off by the order of 1 at usual FVD scales (identical sets are not at 0) and can be negative.
    Arguments as `frechet_distance`. The reference being imitated works on features; moments are rounded to `dtype`.
    """
    (mean_x, cov_x), (mean_y, cov_y) = (_mean_and_covariance(side, ddof, dtype) for side in (x, y))
    root_x = _svd_root(cov_x)
    overlap = torch.trace(_svd_root(root_x @ (cov_y @ root_x)))
    return float(torch.sum((mean_x - mean_y) ** 2) + torch.trace(cov_x + cov_y) - 2 * overlap)


def _mean_and_factor(side, ddof):
    """Mean [D] and F [r, D] with Fᵀ F = covariance."""
    if isinstance(side, Moments):
        values, vectors = np.linalg.eigh(side.cov(ddof))
        kept = values > max(values[-1], 0) * len(values) * EPS
        return side.mean, np.sqrt(values[kept])[:, None] * vectors[:, kept].T
    mean = side.mean(axis=0)
    return mean, np.linalg.qr((side - mean) / np.sqrt(denominator(len(side), ddof)), mode="r")


def _mean_and_covariance(side, ddof, dtype):
    if isinstance(side, Moments):
        return torch.from_numpy(side.mean).to(dtype), torch.from_numpy(side.cov(ddof)).to(dtype)
    features = torch.from_numpy(side).to(dtype)
    mean = features.mean(dim=0)
    centred = features - mean
    return mean, centred.T @ centred / denominator(len(side), ddof)


def _svd_root(matrix):
    left, values, right = torch.linalg.svd(matrix)
    values = torch.where(values < LEGACY_THRESHOLD, values, values.sqrt())
    return left @ torch.diag(values) @ right


def _dimension(side):
    return side.dimension if isinstance(side, Moments) else side.shape[1]


def _count(side):
    return side.n if isinstance(side, Moments) else len(side)
