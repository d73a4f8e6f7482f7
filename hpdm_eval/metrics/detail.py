"""Fine detail: what a clip would lose at half its resolution, which features of a small classifier hardly see.

T frames, H rows, W columns; N samples, M real clips.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from hpdm.pyramid import enlarge_video
from hpdm_eval.metrics.score_tests import difference_t_interval


def fine_detail(video: np.ndarray) -> float:
    """ln of the root mean square of what a clip, uint8 [T, H, W, 3], loses at half its resolution along all axes.

    That is what the finest level adds. The unit of the root mean square is half the range of pixels.

    >>> import numpy as np
    >>> checks = np.indices((4, 8, 8)).sum(0) % 2 * 255
    >>> round(fine_detail(np.stack([checks] * 3, axis=-1).astype(np.uint8)), 3)
    0.0
    """
    x = torch.from_numpy(video).permute(3, 0, 1, 2)[None].double() / 127.5 - 1
    rest = x - enlarge_video(F.avg_pool3d(x, 2))
    return float(rest.square().mean().sqrt().clamp(min=1e-6).log())


@dataclass(frozen=True, kw_only=True)
class DetailRatio:
    """Fine detail of samples over that of real clips; 1 where they have as much."""

    value: float
    ci95: tuple[float, float] | None


def detail_ratio(samples: np.ndarray, real: np.ndarray) -> DetailRatio:
    """Geometric mean of the `fine_detail` of samples [N] over that of real clips [M]; its interval by Welch's t."""
    ci95 = difference_t_interval(samples, real)
    return DetailRatio(
        value=float(np.exp(samples.mean() - real.mean())),
        ci95=None if ci95 is None else (float(np.exp(ci95[0])), float(np.exp(ci95[1]))),
    )
