"""What a run will cost, before it starts: parameters, FLOPs, memory and batch arithmetic, without computing anything.

FLOPs count a multiply-add as two, matrix products only (attention included). B batch, L levels, N tokens of width d.
"""

import dataclasses
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hpdm.batches import BatchPlan
from hpdm.config import config_to_dict, plain
from hpdm.config.training import AUTO, TrainingConfig, plan_batch
from hpdm.methods import make_method
from hpdm.model.fusion import Geometry
from hpdm.sampling.steps import count_block_evaluations
from hpdm.support.environment import processes_here
from hpdm.support.errors import InputError, too_large
from hpdm.training.optimizer import describe_groups, parameter_groups
from hpdm.training.sharing import Sharing, plan_sharing, sharing_memory, step_traffic

if TYPE_CHECKING:
    from hpdm.config import Config


GIB, GB = 2**30, 10**9
BYTES_PER_PARAMETER = {"weights": 4, "gradients": 4, "optimizer": 8, "average": 4}  # all fp32, two moments
ROOM = 0.9  # of a GPU's memory: the rest is what the estimate misses, fragments and the CUDA context
NO_FLOPS = ("batch", "micro_batch", "seed", "warmup", "ema_half_life", "checkpoint_every", "keep")  # how long, not how
EXAMPLE_TFLOPS = 100  # a rate to express the cost of a run in days


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The figures of one configuration; as a dictionary it is what `hpdm-info --json` prints."""

    size: str
    parameters: int
    parameters_by_part: dict[str, int]
    parameter_groups: str
    levels: list[dict]  # per level: video and patch size, tokens, blocks that work on it
    flops: list[dict]  # {"block", "level", "flops"} of one sample, forward, over all windows of the level
    flops_outside_blocks: int  # tokenizer, condition, start of the latents, detokenizer: all levels
    flops_per_sample: int  # forward over all levels, as in one training pass
    flops_per_training_sample: int  # with backward, the first pass of self-conditioning, and recomputation
    memory: dict[str, int]  # bytes of one process
    disk: dict[str, int]  # bytes of the run's folder, but for log, sheets and samples
    sharing: dict[str, int]  # processes, those that share a copy, bytes that one receives per step
    batch: dict[str, int]
    training_flops: float  # of the whole schedule
    automatic: bool  # whether the GPU decides on recomputing activations, which these figures leave out
    block_evaluations_per_video: int | None = None  # of sampling with a cache; None where the settings make no videos


@dataclass(frozen=True, kw_only=True)
class Flops:
    """FLOPs of one sample."""

    by_block: list[dict]  # {"block", "level", "flops"}, forward
    forward: int  # over all levels
    training: int  # with backward, the first pass of self-conditioning, and recomputation

    @property
    def outside_blocks(self) -> int:
        return self.forward - sum(entry["flops"] for entry in self.by_block)


def count_flops(config: "Config") -> Flops:
    """The FLOPs of a `Config`'s network, counted on tensors without data."""
    same = dataclasses.replace(config.training, steps=1, **{name: getattr(TrainingConfig, name) for name in NO_FLOPS})
    return _count_flops(dataclasses.replace(config, training=same))


@lru_cache(maxsize=256)
def _count_flops(config):
    method, network = _on_meta(config)
    return method.count_flops(network)


def network_flops(network: nn.Module, example: tuple, config: "Config") -> Flops:
    """FLOPs of an `HPDM` on the meta device; `example` are the arguments of a forward pass of one sample."""
    windows = config.training.windows(config.pyramid.levels)
    by_block = [
        {"block": index, "level": level, "flops": windows[level] * _block_flops(network, index, level)}
        for index, block in enumerate(network.blocks)
        for level in range(block.levels)
    ]
    return training_flops(network, example, by_block, config)


def forward_flops(network: nn.Module, example: tuple, **options: Any) -> int:
    """FLOPs of a network on the meta device that is called with `example`."""
    with FlopCounterMode(display=False) as counter:
        network(*example, **options)
    return counter.get_total_flops()


def training_flops(network: nn.Module, example: tuple, by_block: list[dict], config: "Config") -> Flops:
    """What a training sample takes on average; `network` is on the meta device and called with `example`."""
    training, forward = config.training, forward_flops(network, example)
    recomputed = sum(entry["flops"] for entry in by_block) if training.recomputes else 0
    return Flops(
        by_block=by_block,
        forward=forward,
        training=3 * forward + first_pass_flops(network, example, forward, config) + recomputed,
    )


def first_pass_flops(network: nn.Module, example: tuple, forward: int, config: "Config") -> int:
    """FLOPs of self-conditioning's first pass of a sample on average; `forward` are those of a whole forward pass."""
    rate = config.training.self_conditioning_rate if config.network.self_conditioning else 0.0
    if not rate or config.training.first_pass == "whole":
        return forward if rate else 0
    share = 1.0 if config.training.compile else rate  # see `hpdm.training.loss`
    return round(share * forward_flops(network, example, outputs=False))


def make_plan(config: "Config", world_size: int = 1) -> Plan:
    """Figures of a `Config` on `world_size` processes; raises InputError where there are more than samples."""
    training = config.training
    batches = plan_batch(training, world_size)
    method, network = _on_meta(config)
    counted = method.count_flops(network)
    parameters = sum(p.numel() for p in network.parameters())
    sharing = plan_sharing(training, world_size)
    averages = 1 + len(training.traces)
    per_parameter = BYTES_PER_PARAMETER | {"average": BYTES_PER_PARAMETER["average"] * averages}
    memory = {name: count * parameters // sharing.shards for name, count in per_parameter.items()}
    memory |= sharing_memory(sharing, training, network, batches.passes)
    first_pass = config.network.self_conditioning and training.self_conditioning_rate > 0
    traffic = step_traffic(sharing, training, network, batches.passes, first_pass=first_pass)
    memory["activations"] = _activation_bytes(method) * batches.micro_batch
    memory["total"] = sum(memory.values())
    return Plan(
        size=config.size,
        parameters=parameters,
        parameters_by_part=network.parameters_by_part(),
        parameter_groups=describe_groups(parameter_groups(network, training.weight_decay)),
        levels=method.describe_levels(network),
        flops=counted.by_block,
        flops_outside_blocks=counted.outside_blocks,
        flops_per_sample=counted.forward,
        flops_per_training_sample=counted.training,
        memory=memory,
        disk=_disk(training, parameters, per_parameter),
        sharing={"processes": world_size, "shards": sharing.shards, **traffic},
        batch={
            "batch": batches.batch,
            "processes": world_size,
            "per_process": batches.per_process,
            "micro_batch": batches.micro_batch,
            "passes_per_step": batches.passes,
            "steps": training.steps,
            "samples": training.steps * batches.batch,
        },
        training_flops=float(counted.training) * training.steps * batches.batch,
        automatic=training.activation_checkpointing == AUTO,
        block_evaluations_per_video=sampling_evaluations(config) if method.makes_videos else None,
    )


def recomputes_activations(config: "Config", device: torch.device, world_size: int = 1) -> bool:
    """What `training.activation_checkpointing` means on a torch.device.

    "auto": whether a `Config` that keeps its activations is planned to take more than `ROOM` of the GPU's memory. A
    processor recomputes nothing then.
    """
    setting = config.training.activation_checkpointing
    if setting != AUTO or torch.device(device).type != "cuda":
        return setting is True
    return make_plan(config, world_size).memory["total"] > ROOM * torch.cuda.get_device_properties(device).total_memory


def sampling_evaluations(config: "Config") -> int | None:
    """Block evaluations that a video takes; None where fewer numbers of steps than levels are configured."""
    try:
        return count_block_evaluations(config.network, config.pyramid, config.diffusion, config.sampling)
    except InputError:
        return None


def _disk(training, parameters, per_parameter) -> dict[str, int]:
    """Bytes of checkpoints, all that stay, and of snapshots, each and all; tensors alone."""
    checkpoint = parameters * (sum(per_parameter.values()) - per_parameter["gradients"])
    snapshot = parameters * per_parameter["average"] if training.keep_weights_every else 0
    kept = training.steps // training.keep_weights_every if training.keep_weights_every else 0
    disk = {
        "checkpoint": checkpoint,
        "checkpoints": checkpoint * (training.keep + 1),
        "snapshot": snapshot,
        "snapshots": snapshot * kept,
    }
    return disk | {"total": disk["checkpoints"] + disk["snapshots"]}


def hierarchy_levels(network: nn.Module, config: "Config") -> list[dict]:
    """Per level of a network like `HPDM`: video and patch size, tokens, blocks that work on it, input scale."""
    pyramid = config.pyramid
    return [
        {
            "level": level,
            "video": list(pyramid.resolution(level)),
            "patch": list(pyramid.patch),
            "tokens": torch.Size(network.token_grid).numel(),
            "windows": config.training.windows(pyramid.levels)[level],
            "blocks": sum(hosted > level for hosted in network.config.levels_per_block),
            "s_in": config.diffusion.scale_in(level),
        }
        for level in range(pyramid.levels)
    ]


def describe_plan(plan: Plan) -> str:
    """The plan as text for people."""
    batch, levels = plan.batch, [entry["level"] for entry in plan.levels]
    batches = BatchPlan(batch=batch["batch"], world_size=batch["processes"], micro_batch=batch["micro_batch"])
    lines = [f"{plan.size}: {plan.parameters:,} parameters"]
    lines += [f"  {part:<12} {count:>15,}" for part, count in plan.parameters_by_part.items()]
    lines.append(f"  {plan.parameter_groups}")
    if levels:
        lines += ["", "level  video          patch        tokens  blocks   s_in  windows"]
    for entry in plan.levels:
        video, patch = ("x".join(map(str, entry[key])) for key in ("video", "patch"))
        lines.append(
            f"{entry['level']:>5}  {video:<13}  {patch:<11}  "
            f"{entry['tokens']:>6}  {entry['blocks']:>6}  {entry['s_in']:>5.1f}  {entry['windows']:>7}"
        )
    lines += ["", "GFLOP of one sample, forward (a multiply-add is two)"]
    if plan.flops:
        lines += _block_table(plan, levels)
    lines += [
        f"outside the blocks {plan.flops_outside_blocks / 1e9:.4g}, forward {plan.flops_per_sample / 1e9:.4g}, "
        f"one training sample {plan.flops_per_training_sample / 1e9:.4g}",
        "",
        "memory of one process, estimated: " + ", ".join(f"{k} {v / GIB:.3g} GiB" for k, v in plan.memory.items()),
        *(
            [
                "activation_checkpointing=auto: recomputed on GPUs with less than "
                f"{plan.memory['total'] / ROOM / GIB:.3g} GiB"
            ]
            if plan.automatic
            else []
        ),
        *_sharing_lines(plan.sharing),
        _describe_disk(plan),
        f"{batches.describe()}; {batch['steps']:,} steps = {batch['samples']:,} samples",
        f"whole schedule {plan.training_flops / 1e15:.4g} PFLOP: "
        f"{plan.training_flops / (EXAMPLE_TFLOPS * 1e12) / 86400:.3g} days at {EXAMPLE_TFLOPS} TFLOP/s",
    ]
    if plan.block_evaluations_per_video is not None:
        lines.append(f"sampling takes {plan.block_evaluations_per_video:,} block evaluations a video")
    return "\n".join(lines)


def _describe_disk(plan):
    sizes = {name: f"{size / GIB:.3g} GiB" for name, size in plan.disk.items()}
    kept = plan.disk["checkpoints"] // plan.disk["checkpoint"]
    text = f"disk space: {sizes['checkpoints']} for {kept} checkpoints, one of them while it is written"
    if plan.disk["snapshot"]:
        count = plan.disk["snapshots"] // plan.disk["snapshot"]
        text += f", {sizes['snapshots']} for {count} snapshots of {sizes['snapshot']}, total {sizes['total']}"
    return text


def _sharing_lines(sharing):
    """What several processes share and send."""
    if sharing["processes"] == 1:
        return []
    between = f", {sharing['between_copies'] / GB:.3g} GB from other copies" if sharing["between_copies"] else ""
    described = Sharing(processes=sharing["processes"], shards=sharing["shards"]).describe()
    return [f"{described}; each receives {sharing['within_copy'] / GB:.3g} GB per step within its copy{between}"]


def _block_table(plan, levels):
    lines = ["block  " + "".join(f"{f'level {n}':>12}" for n in levels)]
    table = {(entry["block"], entry["level"]): entry["flops"] for entry in plan.flops}
    for block in range(max(block for block, _ in table) + 1):
        cells = [f"{table[block, n] / 1e9:>12.4g}" if (block, n) in table else f"{'-':>12}" for n in levels]
        lines.append(f"{block:>5}  " + "".join(cells))
    totals = [sum(entry["flops"] for entry in plan.flops if entry["level"] == n) for n in levels]
    return [*lines, "total  " + "".join(f"{total / 1e9:>12.4g}" for total in totals)]


def describe_run(config: "Config") -> str:
    """All settings and the plan, as `hpdm-train --dry-run` prints them."""
    plan = make_plan(config, processes_here().world_size)
    settings = config_to_dict(config) | {"eval": plain(asdict(config.eval))}
    return yaml.safe_dump(settings, sort_keys=False) + "\n" + describe_plan(plan)


def _on_meta(config):
    """A configuration's method, and its network in training mode without data."""
    method = make_method(config)
    with too_large(), torch.device("meta"):
        return method, method.make_network().train()


def _block_arguments(network, device):
    """Tokens, latents and condition of one sample on one level."""
    config, tokens = network.config, torch.Size(network.token_grid).numel()
    return (
        torch.zeros(1, tokens, config.token_width, device=device),
        torch.zeros(1, config.num_latents, config.latent_width, device=device),
        torch.zeros(1, network.condition_tokens, config.condition_width, device=device),
    )


def _block_flops(network, index, level):
    """FLOPs of one sample of `level` in one block of a network on the meta device: fusion with its context, RIN."""
    block = network.blocks[index]
    tokens, latents, condition = _block_arguments(network, "meta")
    starts = [torch.zeros(1, 3, dtype=torch.int64, device="meta")] * (level + 1)
    with FlopCounterMode(display=False) as counter:
        constant = None
        if block.fusion is not None:
            geometry = Geometry(network.pyramid, starts, network.token_grid)
            context = block.fusion.gather([tokens] * level, level, geometry)
            constant = block.fusion.constant(context, geometry.coordinates(level))
        block.forward_level(tokens, latents, condition, constant)
    return counter.get_total_flops()


def _activation_bytes(method):
    """What one sample's forward pass keeps for the backward pass, on tensors without data.

    With activation checkpointing: the inputs of all blocks, and everything within the largest one.
    """
    config = method.config
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = method.make_network().train()
        if not config.training.recomputes:
            return _kept(network, lambda: network(*method.example("cpu")))
        tokens, latents, condition = _block_arguments(network, "cpu")
        windows = config.training.windows(config.pyramid.levels)
        hosted = [sum(windows[:levels]) for levels in config.network.levels_per_block]
        inputs = sum(t.nbytes for t in (tokens, latents, condition)) * sum(hosted)
        widest = network.blocks[-1]
        arguments = [t.repeat(hosted[-1], 1, 1).requires_grad_() for t in (tokens, latents, condition)]
        starts = [torch.zeros(count, 3, dtype=torch.int64) for count in windows]
        geometry = Geometry(network.pyramid, starts, network.token_grid, batch=1)
        return inputs + _kept(network, lambda: widest(*arguments, geometry))


def _kept(network, forward):
    """Bytes of all tensors that autograd saves in `forward()`, weights excluded, each storage once."""
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage  # kept alive, or its address would be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in storages.values())
