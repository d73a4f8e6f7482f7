"""How processes share a network's weights: in how many parts, what it costs in memory, what it sends.

`ddp` keeps a copy on every process. `fsdp` spreads one over all of them, and fetches the weights of a block from all
before it computes. `hsdp` spreads a copy over the processes of a node and has a copy per node: only sums of gradients,
each of a part, go from node to node.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpdm.support.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from hpdm.config.training import TrainingConfig


BYTES = 4  # of a weight or a gradient: fp32
PREFETCHED = 2  # blocks whose whole weights are there at once: one that computes, one that is on its way


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """A network's weights on several processes."""

    processes: int
    shards: int  # processes that share one copy

    @property
    def copies(self) -> int:
        return self.processes // self.shards

    def describe(self) -> str:
        if self.shards == 1:
            return f"a copy of the weights on each of {self.processes} processes"
        copies = "one copy" if self.copies == 1 else f"{self.copies} copies"
        return f"{copies} of the weights, each over {self.shards} processes"


def plan_sharing(training: "TrainingConfig", processes: int) -> Sharing:
    """The `Sharing` that a `TrainingConfig` asks for; raises InputError where processes cannot be grouped so."""
    if training.parallel == "ddp" or processes == 1:
        return Sharing(processes=processes, shards=1)
    if training.parallel == "fsdp":
        return Sharing(processes=processes, shards=processes)
    size, where = training.shard_size, "training.shard_size"
    if size is None:
        size, where = processes_per_node(processes), "the number of processes per node"
    if processes % size:
        raise InputError(
            f"{processes} processes cannot be split into groups of {size}, {where}; set "
            f"training.shard_size to a number that divides {processes}"
        )
    if size == 1:
        raise InputError(
            f"parallel=hsdp with groups of one process ({where} is 1) shards nothing; set "
            f"training.shard_size, or use parallel=ddp"
        )
    return Sharing(processes=processes, shards=size)


def processes_per_node(processes: int) -> int:
    """Of `torchrun`'s LOCAL_WORLD_SIZE; all of them where it says nothing."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(text) if text.isdecimal() and int(text) else processes


def sharing_memory(sharing: Sharing, training: "TrainingConfig", network: "nn.Module", passes: int) -> dict[str, int]:
    """Bytes that one process of a sharded run needs on top of its parts; empty where nothing is sharded.

    "gathered_weights": those that are whole for a while. "unsharded_gradients": a single copy adds up whole gradients
    over the passes of a step and shares them out after the last; several share them out within the copy after every
    pass, so that only those of the blocks being computed are whole, as with one pass.
    """
    if sharing.shards == 1:
        return {}
    whole, blocks = _numbers(network)
    outside = whole - sum(blocks)
    around = min(whole, outside + PREFETCHED * max(blocks, default=0))
    kept = sharing.copies == 1 and passes > 1
    return {
        "gathered_weights": BYTES * (around if training.reshard else whole),
        "unsharded_gradients": BYTES * (whole if kept else around),
    }


def step_traffic(
    sharing: Sharing, training: "TrainingConfig", network: "nn.Module", passes: int, *, first_pass: bool
) -> dict[str, int]:
    """Bytes that one process receives per step, {"within_copy", "between_copies"}.

    first_pass: whether each pass starts with one that makes the first estimate of self-conditioning. A sum over n
    processes of b bytes costs each 2 b (n - 1) / n; collecting it or sharing it out costs half of that.
    """
    whole, blocks = _numbers(network)
    outside, shards, copies = whole - sum(blocks), sharing.shards, sharing.copies
    within = 0
    if shards > 1:
        times = 2 + first_pass if training.reshard else 1  # forward, backward
        collected = passes * (times * sum(blocks) + outside)
        shared_out = whole * (passes if copies > 1 else 1)
        within = BYTES * (collected + shared_out) * (shards - 1) // shards
    return {"within_copy": within, "between_copies": 2 * BYTES * whole * (copies - 1) // (copies * shards)}


def _numbers(network):
    """(parameters of a network, [those of each block])."""
    return (
        sum(p.numel() for p in network.parameters()),
        [sum(p.numel() for p in block.parameters()) for block in network.blocks],
    )
