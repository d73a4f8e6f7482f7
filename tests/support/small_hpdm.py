"""A hierarchical network of three levels in float64, small enough for exact comparisons."""

import dataclasses

import torch

from hpdm.config.network import NetworkConfig
from hpdm.model.network import HPDM
from hpdm.pyramid import Pyramid

PYRAMID = Pyramid(levels=3, patch=(2, 4, 8))

SMALL = NetworkConfig(
    token=(1, 2, 4),
    token_width=16,
    latent_width=12,
    num_latents=5,
    levels_per_block=(1, 2, 3),
    compute_layers=1,
    io_heads=2,
    io_head_width=4,
    compute_heads=2,
    compute_head_width=6,
    condition_width=8,
    noise_frequencies=8,
    num_classes=3,
    dropout=0.0,
)


def small_network(**changes):
    torch.manual_seed(0)
    network = HPDM(dataclasses.replace(SMALL, **changes), PYRAMID).double()
    for parameter in network.parameters():  # the untrained network predicts zero, which would hide everything
        torch.nn.init.normal_(parameter, std=0.3)
    return network
