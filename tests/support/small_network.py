"""A small network with random weights and a few drawn clips, for tests of commands."""

import json

import torch
from safetensors.torch import save_file

from hpdm.data.procedural import CLASS_NAMES, procedural_clip
from hpdm.video.writer import write_video
from hpdm_eval.backbones.shapes3d import Shapes3D


def random_shapes3d(path):
    """Write weights and return the options that choose them."""
    torch.manual_seed(0)
    state = {key: value for key, value in Shapes3D(12).state_dict().items() if "num_batches" not in key}
    save_file(state, path, {"format": "shapes3d", "classes": json.dumps(CLASS_NAMES)})
    return ["--backbone", "shapes3d", "--weights", str(path), "--unverified"]


def draw_clips(folder, count, seed=0, frames=8, size=32):
    """Write `count` short videos."""
    for index in range(count):
        write_video(folder / f"{index:02d}.mp4", procedural_clip(seed, index, frames, size, size)[0])
