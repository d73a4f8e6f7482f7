"""A network of a few thousand parameters with the settings of a published size: what is small is only what costs time.

Optimizer, learning rate, shares of warm-up and decay, dropout, input scales, noise levels, order of windows, levels per
block, self-conditioning and precision options are the size's own; widths, patch and batch are cut until a step takes
milliseconds on a processor. What goes wrong in it goes wrong in the size.
"""

import math

from hpdm.config import Config, load_config, override_config

WARMUP_SHARE = 0.25  # of the published schedules of S and M: 10,000 of 40,000 steps

SMALL = (
    "network.token_width=32",
    "network.latent_width=32",
    "network.num_latents=8",
    "network.compute_layers=1",
    "network.io_heads=2",
    "network.io_head_width=16",
    "network.compute_heads=2",
    "network.compute_head_width=16",
    "network.condition_width=32",
    "network.noise_frequencies=16",
    "data.num_workers=0",
    "data.procedural_videos=1000",
    "training.sheet_every=0",
    "training.log_every=1",
    "training.keep=1000",
)


def stand_in(size: str = "L", *overrides: str, steps: int = 200, batch: int = 6, micro_batch: int = 2) -> Config:
    """The small `Config` of a class-conditional `size` (S, M or L) with `section.key=value` overrides on top.

    Patches are 2x8x8 pixels in the size's own tokens of 1x4x4: 8 tokens on each of three levels.
    """
    schedule = (
        "pyramid.patch=[2, 8, 8]",
        f"training.steps={steps}",
        f"training.warmup={math.ceil(WARMUP_SHARE * steps)}",
        f"training.checkpoint_every={steps}",
        f"training.batch={batch}",
        f"training.micro_batch={micro_batch}",
    )
    return override_config(load_config(size, [*SMALL, *schedule]), overrides)
