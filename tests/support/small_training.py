"""A network of a few thousand parameters on procedural clips, for tests that train; the code is that of every size."""

import torch
import yaml

from hpdm.checkpoint.folder import open_weights
from hpdm.checkpoint.shard_files import index_file, is_sharded
from hpdm.config import config_from_dict, override_config
from hpdm.data.loader import open_clips
from hpdm.training import loop

SMALL = {
    "size": "small",
    "pyramid": {"levels": 2, "patch": [2, 4, 4]},
    "network": {
        "token": [1, 2, 2],
        "token_width": 16,
        "latent_width": 16,
        "num_latents": 4,
        "levels_per_block": [1, 2],
        "compute_layers": 1,
        "io_heads": 2,
        "io_head_width": 8,
        "compute_heads": 2,
        "compute_head_width": 8,
        "condition_width": 16,
        "noise_frequencies": 8,
        "num_classes": 12,
        "dropout": 0.1,
    },
    "training": {
        "steps": 6,
        "batch": 8,
        "micro_batch": 2,
        "warmup": 2,
        "lr": 0.003,
        "ema_half_life": 0.5,
        "ema_ramp_up": 0.2,
        "log_every": 1,
        "checkpoint_every": 100,
        "keep": 10,
        "sheet_every": 0,
    },
    "data": {"procedural_videos": 100, "num_workers": 0},
}


def small_config(*overrides):
    """The small configuration with `section.key=value` overrides."""
    return override_config(config_from_dict(SMALL), overrides)


def write_small(path):
    """The small configuration as a file for `--size`."""
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    return path


def saved_weights(folder, kind="model"):
    """{name: tensor} of a checkpoint's weights ("model") or their average ("ema"), in one file or in many."""
    with open_weights(folder / (index_file(kind) if is_sharded(folder) else f"{kind}.safetensors")) as weights:
        return {name: weights[name] for name in weights}


def run(folder, *overrides, **arguments):
    """Train the small configuration."""
    return loop.train(small_config(*overrides), folder, device="cpu", quiet=True, **arguments)


def batch_of(config, count):
    """The first `count` clips of a configuration's data, and their labels."""
    frames, height, width = config.pyramid.resolution(config.pyramid.levels - 1)
    clips = open_clips(config.data, frames=frames, height=height, width=width, seed=0)
    videos, labels = zip(*(clips[i] for i in range(count)), strict=True)
    return torch.stack(videos), torch.tensor(labels)
