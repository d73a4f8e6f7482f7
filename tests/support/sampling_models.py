"""Small networks for tests of sampling: a checkpoint with random weights, and a stand-in that knows the truth."""

import json

import torch
from safetensors.torch import save_file

from hpdm.config import config_from_dict, config_to_dict
from hpdm.config.network import NetworkConfig
from hpdm.diffusion import DiffusionConfig
from hpdm.model.network import HPDM, LevelOutput
from hpdm.pyramid import Pyramid

TINY = {
    "size": "tiny",
    "pyramid": {"levels": 3, "patch": [4, 8, 8]},
    "network": {
        "token": [1, 2, 2],
        "token_width": 32,
        "latent_width": 32,
        "num_latents": 8,
        "levels_per_block": [1, 2, 3],
        "compute_layers": 1,
        "io_heads": 2,
        "io_head_width": 16,
        "compute_heads": 2,
        "compute_head_width": 16,
        "condition_width": 32,
        "noise_frequencies": 16,
        "num_classes": 4,
    },
    "diffusion": {"sigma_max": [20.0, 10.0, 5.0]},
    "sampling": {"steps": [3, 2, 2]},
}


def tiny_config(**network):
    return config_from_dict({**TINY, "network": {**TINY["network"], **network}})


def tiny_network(config):
    """An HPDM whose every weight matters: noise on the starting values, which alone predict zero."""
    torch.manual_seed(0)
    network = HPDM(config.network, config.pyramid)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def save_tiny(folder, config=None):
    """A step's folder with averaged weights, as training leaves it."""
    config = config or tiny_config()
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().contiguous() for name, value in tiny_network(config).named_parameters()}
    header = {"config": config_to_dict(config), "step": 7, "weights": "ema"}
    save_file(weights, folder / "ema.safetensors", metadata={"hpdm": json.dumps(header)})
    return folder


class KnownVideos:
    """A network that returns `estimate(level, video patch, start)` of known videos as its estimate of x.

    videos: [B, C, T, H, W] per level; label b stands for video b. The start of a window reaches it as its "constant".
    """

    def __init__(self, videos, patch, estimate=lambda x, start: x, diffusion=None):
        self.videos, self.estimate = videos, estimate
        self.pyramid = Pyramid(levels=len(videos), patch=patch)
        self.config = NetworkConfig(
            levels_per_block=(len(videos),),
            channels=videos[0].shape[1],
            num_classes=len(videos[0]),
            token=(1, 1, 1),
            token_width=1,
            num_latents=1,
            latent_width=1,
        )
        self.token_grid = patch
        self.null_label = len(videos[0])
        self.concatenates_rgb = False
        self.diffusion = diffusion or DiffusionConfig()
        self.asked = []  # (level, start, [(parent's level, parent's start), ...])

    def level_constants(self, level, start, parents):
        for i in range(len(start)):
            chain = [(k, tuple(at[i].tolist())) for k, (at, _) in enumerate(parents)]
            self.asked.append((level, tuple(start[i].tolist()), chain))
        # The position in the batch of videos comes with the label; the place of the window travels here.
        return [start.double()[:, None]]

    def forward_level(self, level, patch, c_noise, labels, constants, keep_activations=False, **options):
        sigma = (4 * c_noise.double()).exp().view(-1, 1, 1, 1, 1)
        s_in = self.diffusion.scale_in(level)
        y = patch.double() * (1 / s_in**2 + sigma**2).sqrt()
        rf, rh, rw = self.pyramid.patch
        truth = torch.stack(
            [
                self.estimate(self.videos[level][label][:, f : f + rf, h : h + rh, w : w + rw].double(), (f, h, w))
                for label, (f, h, w) in zip(labels.labels.tolist(), constants[0][:, 0].long().tolist(), strict=True)
            ]
        )
        # F with c_skip * y + c_out * F = truth
        norm = s_in * sigma**2 + 1
        output = (truth - s_in / norm * y) / (-s_in * sigma * (sigma**2 + 1).sqrt() / norm)
        activations = [torch.zeros(len(patch), 1, 1)] if keep_activations else None
        return LevelOutput(output=output.float(), latents=torch.zeros(len(patch), 1, 1), activations=activations)
