"""The network of a run before its first step: built whole or in shards, with fresh weights or another run's."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from hpdm.checkpoint.folder import open_weights
from hpdm.checkpoint.load import find_weights
from hpdm.model.sharding import like
from hpdm.support.errors import InputError, too_large
from hpdm.training.distributed import shard

if TYPE_CHECKING:
    from hpdm.methods import Method
    from hpdm.training.distributed import Processes


NEW_PARTS = ".fusion."  # what a network of more levels has and one of fewer may lack


def build_network(
    method: "Method", process: "Processes", *, sharded: bool, seed: int, reshard: bool = True, shards: int | None = None
) -> torch.nn.Module:
    """The network of a method with starting values that follow from the seed, on the process' device.

    `sharded` spreads it over all processes, or over groups of `shards`. Where the method allows it, it is then built
    without data and filled in shard by shard, so that no process ever holds it whole.
    """
    if sharded and method.builds_on_meta:
        with torch.device("meta"):
            network = method.make_network()
        shard(network, process, reshard=reshard, shards=shards)
        network.to_empty(device=process.device)
        torch.manual_seed(seed)
        _skip_defaults(network)
        network.reset_parameters()
        return network
    torch.manual_seed(seed)
    with too_large():
        return method.make_network()


def _skip_defaults(network):
    """Draw what a network that is built with data draws before its own starting values: those of PyTorch's layers."""
    for module in network.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            for parameter in module.parameters(recurse=False):
                whole = torch.empty(parameter.shape)
                whole.uniform_() if isinstance(module, torch.nn.Linear) else whole.normal_()


@torch.no_grad()
def start_from(network: nn.Module, name: str | Path) -> None:
    """Copy the averaged weights of the run, folder or file `name` into a network, sharded or not.

    What `name` lacks because it has fewer levels, fusion layers, keeps its starting values: identity on tokens, so that
    the levels it knows come out as before, but for the small coordinates that `leave_zero` gives LAMB. Raises
    InputError where anything else is missing, left over or of another shape.
    """
    file = find_weights(name)
    with open_weights(file) as weights:
        parameters = dict(network.named_parameters())
        lacking = [key for key in parameters if key not in weights and NEW_PARTS not in key]
        left = [key for key in weights if key not in parameters]
        unlike = [key for key in weights if key in parameters and weights.shape(key) != tuple(parameters[key].shape)]
        for keys, what in ((lacking, "is missing there"), (left, "has no place here"), (unlike, "has another shape")):
            if keys:
                raise InputError(
                    f"--init-from {name}: {keys[0]} {what}; it must be a run of the same size with fewer levels"
                )
        for key in weights:
            parameters[key].copy_(like(weights[key], parameters[key]))
