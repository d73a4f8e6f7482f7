"""Sample sheets: what the averaged network makes of clips under fixed noise, as one picture.

Each row is one clip and level: a frame of the clean patch, then the estimate of it from rising noise levels, in one
step. It shows at a glance what is learnt on each level; it is not a sample.

B clips, L levels, C channels, patches of rf x rh x rw.
"""

import io

import matplotlib.image
import numpy as np
import torch

from hpdm.data.ranges import to_model_range, to_uint8
from hpdm.diffusion import add_noise, denoise, preconditioning
from hpdm.files import atomic_file
from hpdm.pyramid import extract_patches, sample_windows
from hpdm.training.loss import zero_latents

NOISE_RATIOS = (0.2, 0.8, 2.4, 8.0)  # standard deviation of the noise over that of the scaled signal
CLIPS = 4
CELL = 64  # pixels a patch is enlarged to, by a whole factor
MARGIN = 2


@torch.no_grad()
def draw_sheet(network, video, labels, config) -> np.ndarray:
    """uint8 [height, width, 3]: rows are clips x levels, columns the clean patch and one estimate per noise level.

    video: uint8 [B, C, T, H, W]; labels: int64 [B]. Windows and noise are always the same.
    """
    pyramid, generator = config.pyramid, torch.Generator().manual_seed(0)
    windows = sample_windows(pyramid, len(video), generator)
    clean = extract_patches(to_model_range(video), windows, config.training.shrink)
    noise = torch.randn(pyramid.levels, *clean[0].shape, generator=generator).to(video.device)
    labels = torch.where(labels < 0, config.network.num_classes, labels)
    columns = [clean]
    scales = [config.diffusion.scale_in(level) for level in range(pyramid.levels)]
    for ratio in NOISE_RATIOS:
        sigmas = [torch.full((len(video),), ratio / s_in, device=video.device) for s_in in scales]
        noisy = [add_noise(*arguments) for arguments in zip(clean, noise, sigmas, scales, strict=True)]
        coefficients = [preconditioning(sigma, s_in) for sigma, s_in in zip(sigmas, scales, strict=True)]
        inputs = [c_in.view(-1, 1, 1, 1, 1) * y for (c_in, *_), y in zip(coefficients, noisy, strict=True)]
        c_noise = torch.stack([c for *_, c in coefficients], dim=1)
        latents = zero_latents(config, len(video), video.device)
        outputs, _ = network(inputs, c_noise, windows.to(video.device), labels, latents)
        columns.append([denoise(*arguments) for arguments in zip(outputs, noisy, sigmas, scales, strict=True)])
    return _grid(columns)


def save_picture(path, picture):
    """Write uint8 [height, width, 3] as PNG, atomically."""
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, picture, format="png")
    with atomic_file(path) as file:
        file.write(buffer.getvalue())


def _grid(columns):
    patches = torch.stack([torch.stack(levels) for levels in columns])  # [columns, L, B, C, rf, rh, rw]
    frames = to_uint8(patches[..., patches.shape[4] // 2, :, :].float()).cpu()
    factor = max(1, CELL // frames.shape[-1])
    frames = frames.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    frames = torch.nn.functional.pad(frames, (MARGIN,) * 4, value=255)
    n, levels, batch, channels, height, width = frames.shape
    grid = frames.permute(2, 1, 4, 0, 5, 3).reshape(batch * levels * height, n * width, channels)
    return np.ascontiguousarray(grid.expand(-1, -1, 3).numpy())
