"""Do gradients arrive, and are they right? Every way to compute them against a plain float64 gradient.

The stand-in network of a published size makes the first step of a run with the training loop's own code: in one, two
and three processes, by DDP and by FSDP2 (also in one process), in fp32 and bf16, with and without self-conditioning,
recomputed activations, torch.compile and resharding. Each gradient is compared with that of one process in float64,
computed here from the formulas.

B samples, L levels.
"""

import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hpdm.config import Config
from hpdm.config.training import plan_batch
from hpdm.data.ranges import to_model_range
from hpdm.diffusion import add_noise, preconditioning, v_target
from hpdm.methods import Method, make_method
from hpdm.model.conditioning import as_conditions, drop_conditions
from hpdm.model.text import make_conditioner
from hpdm.pyramid import extract_patches
from hpdm.support.errors import InputError
from hpdm.training.distributed import Processes, replicate, shard
from hpdm.training.loop import accumulate
from hpdm.training.loss import draw
from hpdm_eval.studies.recipe_check.stand_in import stand_in

BATCH, MICRO_BATCH = 7, 2  # neither 2 nor 3 processes share it evenly, nor do passes; of 4 each would make one pass
WORLDS = (1, 2, 3)
ALL_WORLDS = (*WORLDS, 4)  # with hsdp
SHARDED = ("fsdp", "hsdp")
SETTINGS = ("self_conditioning", "checkpointing", "compile", "reshard")
BASE = {"self_conditioning": True, "checkpointing": False, "compile": False, "reshard": True}
PARALLEL = {1: ("single", "fsdp"), 2: ("ddp", "fsdp"), 3: ("ddp", "fsdp"), 4: ("hsdp",)}
COPIES = 2  # of hsdp
# Largest error of all gradients together, over their norm; see `compare`.
TOLERANCE = {"fp32": 1e-5, "bf16": 0.05}
SECONDS = {True: 1800, False: 4 * 3600}  # `quick` and all


def combinations(world: int, quick: bool) -> list[dict]:
    """Settings of the gradients that `world` processes compute.

    All of them; or with `quick` `BASE` in fp32 and, in bf16, what differs from it in one setting, compiled once.
    Weights of which every process holds a whole copy have nothing to reshard.
    """
    chosen = []
    for parallel, precision in itertools.product(PARALLEL[world], ("fp32", "bf16")):
        for values in itertools.product((True, False), repeat=len(SETTINGS)):
            one = dict(zip(SETTINGS, values, strict=True))
            changed = sum(one[name] != BASE[name] for name in SETTINGS)
            if parallel not in SHARDED and not one["reshard"]:
                continue
            if quick and changed > (precision == "bf16"):
                continue
            if quick and one["compile"] and (world, parallel) != (1, "fsdp"):
                continue  # compiling takes long
            chosen.append({"processes": world, "parallel": parallel, "precision": precision, **one})
    return chosen


def config_of(combination: Mapping[str, Any]) -> Config:
    """The stand-in's configuration for a combination: three of its blocks, and no dropout, whose masks the reference
    would have to take over."""
    return stand_in(
        "L",
        "network.levels_per_block=[1, 2, 3]",
        "network.dropout=0.0",
        f"training.precision={combination['precision']}",
        f"training.self_conditioning_rate={0.9 if combination['self_conditioning'] else 0.0}",
        f"training.activation_checkpointing={str(combination['checkpointing']).lower()}",
        batch=BATCH,
        micro_batch=1 if combination["processes"] == 4 else MICRO_BATCH,
    )


def make_network(method: Method) -> torch.nn.Module:
    """The network, the same in every process, with no weight at zero: behind a zero matrix every gradient is zero."""
    torch.manual_seed(0)
    network = method.make_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network.train()


def make_batch(method: Method) -> tuple[torch.Tensor, torch.Tensor]:
    """(videos uint8 [B, 3, T, H, W], labels int64 [B])."""
    generator = torch.Generator().manual_seed(1)
    videos = torch.randint(0, 256, (BATCH, 3, *method.video_size), dtype=torch.uint8, generator=generator)
    return videos, torch.arange(BATCH)


def reference_gradients(config: Config) -> dict[str, torch.Tensor]:
    """Name → gradient of the loss of step 0 in float64: one process, one pass, formulas 7-9 and v-prediction."""
    method = make_method(config)
    network = make_network(method).double()
    videos, labels = make_batch(method)
    draws = draw(config, step=0, positions=range(BATCH))
    patches = extract_patches(to_model_range(videos).double(), draws.windows, config.training.shrink)
    sigma, eps = draws.sigma.double(), draws.eps.double()
    inputs, targets = [], []
    for level, x in enumerate(patches):
        s_in = config.diffusion.scale_in(level)
        c_in = preconditioning(sigma[:, level], s_in)[0].view(-1, 1, 1, 1, 1)
        inputs.append(c_in * add_noise(x, eps[:, level], sigma[:, level], s_in))
        targets.append(v_target(x, eps[:, level], sigma[:, level]))
    conditions = drop_conditions(as_conditions(labels), draws.no_label, config.network.num_classes)
    arguments = inputs, sigma.log() / 4, draws.windows, conditions
    zeros = torch.zeros(BATCH, config.network.num_latents, config.network.latent_width, dtype=torch.float64)
    latents = [zeros] * len(patches)
    if config.training.self_conditioning_rate > 0:
        with torch.no_grad():
            _, estimate = network(*arguments, latents)
        latents = [torch.where(draws.self_condition.view(-1, 1, 1), z, 0.0) for z in estimate]
    outputs, _ = network(*arguments, latents)
    torch.stack([(F - v).square().mean() for F, v in zip(outputs, targets, strict=True)]).mean().backward()
    return {name: p.grad for name, p in network.named_parameters()}


def gradients(combination: Mapping[str, Any], here: Any) -> dict[str, torch.Tensor | None]:
    """Name → whole gradient of the same loss as the training loop computes it; None for one that does not come."""
    config = config_of(combination)
    method = make_method(config)
    network = make_network(method)
    network.checkpoint_blocks = config.training.activation_checkpointing
    if combination["parallel"] in SHARDED:
        copies = COPIES if combination["parallel"] == "hsdp" else 1
        shard(network, here, reshard=combination["reshard"], shards=here.world_size // copies)
    if combination["compile"]:
        network.compile_blocks(backend=combination.get("backend", "inductor"))
    model = replicate(network, here)
    batches = plan_batch(config.training, here.world_size)
    videos, labels = make_batch(method)

    def deliveries():
        for index in range(batches.passes):
            chosen = batches.positions(here.rank, index)
            yield videos[chosen.start : chosen.stop], labels[chosen.start : chosen.stop]

    conditioner = make_conditioner(config, here.device)
    accumulate(model, method, deliveries(), conditioner, batches=batches, process=here, step=0)
    return {
        name: p.grad if p.grad is None or not hasattr(p.grad, "full_tensor") else p.grad.full_tensor()
        for name, p in network.named_parameters()
    }


def compare(own: Mapping[str, torch.Tensor | None], reference: Mapping[str, torch.Tensor]) -> dict:
    """Figures of a network's gradients against the reference's.

    `error`: norm of the difference of all gradients together, missing ones counted as zeros, over the reference's norm;
    `worst`: the largest such ratio of a single tensor that holds at least a thousandth of the whole norm.
    """
    missing = [name for name, gradient in own.items() if gradient is None]
    sizes = {name: gradient.numel() for name, gradient in reference.items()}
    whole = torch.stack([g.norm() for g in reference.values()]).norm()
    apart = {name: (0 if g is None else g.double()) - reference[name] for name, g in own.items()}
    shares = {name: (apart[name].norm() / g.norm()).item() for name, g in reference.items() if g.norm() > 1e-3 * whole}
    return {
        "tensors": len(own),
        "missing": len(missing),
        "missing_share": sum(sizes[name] for name in missing) / sum(sizes.values()),
        "error": (torch.stack([a.norm() for a in apart.values()]).norm() / whole).item(),
        "worst": max(shares.values()),
    }


def measure(worlds: Sequence[int] = WORLDS, *, quick: bool, parts: int = 1) -> list[dict]:
    """A row for every combination: its settings and the figures of `compare`; starts the processes it needs.

    With `quick` torch.compile traces without generating code. `parts` groups of processes share the combinations of
    each number of processes. Raises InputError where a process fails.
    """
    root = Path(__file__).resolve().parents[3]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1", "PYTHONPATH": path}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        # One number of processes after the other finds what those before it have compiled.
        for together in [worlds] if quick else [[world] for world in worlds]:
            _run_workers(folder, together, parts, environment, quick=quick)
        for world in worlds:
            parts_of_rows = [
                json.loads((Path(folder) / f"{world}-{part}.json").read_text(encoding="utf-8")) for part in range(parts)
            ]
            rows += [row for turn in itertools.zip_longest(*parts_of_rows) for row in turn if row is not None]
    return rows


def _run_workers(folder, worlds, parts, environment, *, quick):
    """Start `parts` groups of each number of processes and wait for them; each group leaves its rows in a file."""
    workers = []
    for world, part in itertools.product(worlds, range(parts)):
        port, extent = str(_free_port()), "quick" if quick else "full"
        words = [sys.executable, "-W", "ignore", "-m", __name__, folder]
        workers += [
            subprocess.Popen(
                [*words, str(rank), str(world), port, extent, str(part), str(parts)],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
    try:
        for worker in workers:
            _, errors = worker.communicate(timeout=SECONDS[quick])
            if worker.returncode:
                last = (errors.strip().splitlines() or [f"exit status {worker.returncode}, without a word"])[-1]
                raise InputError(f"a process that computes gradients failed: {last}")
    finally:
        for worker in workers:
            worker.kill()


def wrong(rows: Sequence[dict]) -> list[dict]:
    """The rows with a missing gradient or with one further from the reference than `TOLERANCE`."""
    return [row for row in rows if row["missing"] or not row["error"] <= TOLERANCE[row["precision"]]]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _main(folder, rank, world, port, extent, part, parts):
    rank, world, part = int(rank), int(world), int(part)
    os.environ |= {"WORLD_SIZE": str(world), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    here = Processes(rank=rank, world_size=world, device=torch.device("cpu"))
    references, rows = {}, []
    for combination in combinations(world, extent == "quick")[part :: int(parts)]:
        if combination["self_conditioning"] not in references:
            references[combination["self_conditioning"]] = reference_gradients(config_of(combination))
        if combination["compile"]:
            torch.compiler.reset()
            combination["backend"] = "aot_eager" if extent == "quick" else "inductor"
        own = gradients(combination, here)
        rows.append({**combination, **compare(own, references[combination["self_conditioning"]])})
    if rank == 0:
        (Path(folder) / f"{world}-{part}.json").write_text(json.dumps(rows), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:])
