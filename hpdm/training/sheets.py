"""Sample sheets: what the averaged network makes of clips under fixed noise, as one picture.

Each row is one clip and level: a frame of the clean patch, then the estimate of it from rising noise levels, in one
step. It shows at a glance what is learnt on each level; it is not a sample.

B clips, L levels, C channels, patches of rf x rh x rw.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpdm.data.ranges import to_uint8
from hpdm.diffusion import add_noise, denoise, preconditioning

if TYPE_CHECKING:
    from hpdm.config import Config


NOISE_RATIOS = (0.2, 0.8, 2.4, 8.0)  # standard deviation of the noise over that of the scaled signal
CLIPS = 4
CELL = 64  # pixels a patch is enlarged to, by a whole factor
MARGIN = 2


@torch.no_grad()
def draw_sheet(
    clean: list[torch.Tensor],
    config: "Config",
    predict: Callable[..., list[torch.Tensor]],
    show: Callable[[torch.Tensor], torch.Tensor] = lambda patch: patch,
) -> np.ndarray:
    """uint8 [height, width, 3]: rows are clips x levels, columns the clean patch and one estimate per noise level.

    clean: L tensors [B, C, rf, rh, rw]; predict(network inputs, c_noise [B, L]) → L network outputs; show: from a
    patch to the pixels in [-1, 1] that the picture has of it. The noise is always the same.
    """
    batch, device = len(clean[0]), clean[0].device
    noise = torch.randn(len(clean), *clean[0].shape, generator=torch.Generator().manual_seed(1)).to(device)
    columns = [clean]
    scales = [config.diffusion.scale_in(level) for level in range(len(clean))]
    for ratio in NOISE_RATIOS:
        sigmas = [torch.full((batch,), ratio / s_in, device=device) for s_in in scales]
        noisy = [add_noise(*arguments) for arguments in zip(clean, noise, sigmas, scales, strict=True)]
        coefficients = [preconditioning(sigma, s_in) for sigma, s_in in zip(sigmas, scales, strict=True)]
        inputs = [c_in.view(-1, 1, 1, 1, 1) * y for (c_in, *_), y in zip(coefficients, noisy, strict=True)]
        c_noise = torch.stack([c for *_, c in coefficients], dim=1)
        outputs = predict(inputs, c_noise)
        columns.append([denoise(*arguments) for arguments in zip(outputs, noisy, sigmas, scales, strict=True)])
    return grid([[show(patch) for patch in column] for column in columns])


def grid(columns: list[list[torch.Tensor]]) -> np.ndarray:
    """uint8 [height, width, 3] of the middle frames of `columns`: each L patches [B, C, rf, rh, rw] in [-1, 1]."""
    patches = torch.stack([torch.stack(levels) for levels in columns])  # [columns, L, B, C, rf, rh, rw]
    frames = to_uint8(patches[..., patches.shape[4] // 2, :, :].float()).cpu()
    factor = max(1, CELL // frames.shape[-1])
    frames = frames.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    frames = torch.nn.functional.pad(frames, (MARGIN,) * 4, value=255)
    n, levels, batch, channels, height, width = frames.shape
    picture = frames.permute(2, 1, 4, 0, 5, 3).reshape(batch * levels * height, n * width, channels)
    return np.ascontiguousarray(picture.expand(-1, -1, 3).numpy())
