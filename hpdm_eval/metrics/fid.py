"""Fréchet distance of single frames, FID, of two sets."""

from typing import Any

from hpdm_eval.metrics.frechet import frechet_from_moments
from hpdm_eval.metrics.settings import MetricSettings


def fid(samples: Any, reference: Any, settings: MetricSettings) -> dict[str, Any]:
    """The record's fields of two `Side`s of frames; covariances divide by n - 1, as usual for FID."""
    value = frechet_from_moments(samples.moments, reference.moments)
    detail = {"figure": "fid", "value": value, "frames": samples.moments.n, "reference_frames": reference.moments.n}
    return {"value": value, "details": (detail,)}
