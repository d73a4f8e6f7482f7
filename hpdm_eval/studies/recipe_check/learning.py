"""Does the stand-in network of a published size learn? Output and loss of its first steps under several settings.

An untrained network predicts zero, at a loss of about 1. How soon the output has the size of the target says whether
starting values and optimizer fit together.
"""

import math
import tempfile
from pathlib import Path

import torch

from hpdm.checkpoint.load import load_checkpoint
from hpdm.config import Config
from hpdm.data.loader import open_clips
from hpdm.data.ranges import to_model_range
from hpdm.methods import make_method
from hpdm.pyramid import extract_patches
from hpdm.training.log import read_log
from hpdm.training.loop import train
from hpdm.training.loss import add_noise_to_levels, draw, known_labels, zero_latents
from hpdm_eval.studies.recipe_check.stand_in import stand_in

STEPS, BATCH = 200, 8
MEASURED = 64  # clips that the outputs are measured on
LAST = 20  # steps whose mean is the loss after STEPS
START, LAMB, ADAMW = "LAMB, matrices at zero", "LAMB, gain 0.5", "AdamW"
VARIANTS = {START: ("training.start_gain=0",), LAMB: (), ADAMW: ("training.optimizer=adamw", "training.lr=0.002")}


def learning_config(variant: str, size: str = "L") -> Config:
    """The stand-in for one of VARIANTS, on L's schedule cut to STEPS."""
    return stand_in(
        size, "network.levels_per_block=[1, 2, 3]", *VARIANTS[variant], steps=STEPS, batch=BATCH, micro_batch=BATCH
    )


def learn(variant: str, folder: Path | None = None, size: str = "L") -> dict:
    """Figures of a training of STEPS steps: `loss` of every step, `loss_after`, `output_rms` of the last weights."""
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(folder or temporary) / "run"
        config = learning_config(variant, size)
        if train(config, run, device="cpu", quiet=True).interrupted:
            raise KeyboardInterrupt
        losses = [line["loss"] for line in read_log(run)]
        outputs = output_rms(load_checkpoint(run, raw=True).network, config)
    return {"variant": variant, "loss": losses, "loss_after": sum(losses[-LAST:]) / LAST, "output_rms": outputs}


@torch.no_grad()
def output_rms(network: torch.nn.Module, config: Config) -> float:
    """Root mean square of the network's outputs on all levels, for clips that it has and has not seen."""
    frames, height, width = make_method(config).video_size
    clips = open_clips(config.data, frames=frames, height=height, width=width, seed=1, quiet=True)
    videos, labels = zip(*(clips[number] for number in range(MEASURED)), strict=True)
    large = config.training.batch
    squares, count = 0.0, 0
    for first in range(0, MEASURED, large):
        chosen = slice(first, first + large)
        draws = draw(config, step=first, positions=range(len(videos[chosen])))
        patches = extract_patches(to_model_range(torch.stack(videos[chosen])), draws.windows)
        inputs, c_noise, _ = add_noise_to_levels(patches, draws, config)
        known = known_labels(torch.tensor(labels[chosen]), config)
        outputs, _ = network(inputs, c_noise, draws.windows, known, zero_latents(config, len(known), "cpu"))
        squares += sum(output.double().square().sum().item() for output in outputs)
        count += sum(output.numel() for output in outputs)
    return math.sqrt(squares / count)
