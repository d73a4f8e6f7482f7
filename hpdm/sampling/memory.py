"""What sampling needs in memory, before it starts, and what there is.

T tiles of a call, N data tokens of width d, M latents of width D.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch

from hpdm.config.sampling import SamplingConfig
from hpdm.model.fusion import FUSIONS
from hpdm.pyramid import tile_starts
from hpdm.sampling.calls import LARGEST_CALL, reference_size
from hpdm.sampling.steps import group_starts, level_tilings
from hpdm.support.errors import InputError
from hpdm.support.progress import note

if TYPE_CHECKING:
    from hpdm.model.network import LevelNetwork


GIB = 2**30
CANVASES = 6  # of the finest level that live at once: y, its next value, two slopes, the average, noise
SHARE = 0.9  # of free memory that a run may plan with
MOST_TOKENS = 2**16  # data tokens of a call on level 0, in which GPUs gain nothing from more videos at once


class MemorySettings(TypedDict):
    """What decides how much a sampler needs, beside the numbers of videos and tiles; all functions below take it."""

    levels: int
    use_cache: bool
    offload: bool


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes by what they are for; `host` is beside the rest where the cache is offloaded from a GPU."""

    weights: int  # already in use when sampling starts
    canvas: int
    cache: int
    call: int
    host: int

    @property
    def needed(self) -> int:
        """What has to be free on the device."""
        return self.canvas + self.cache + self.call

    def __str__(self) -> str:
        parts = {"canvas": self.canvas, "cache": self.cache, "network calls": self.call, "host": self.host}
        listed = ", ".join(f"{name} {value / GIB:.2f}" for name, value in parts.items() if value)
        return f"{self.needed / GIB:.2f} GiB ({listed})"


def estimate_memory(
    network: "LevelNetwork",
    sampling: SamplingConfig,
    *,
    levels: int,
    batch: int,
    tile_batch: int,
    use_cache: bool = True,
    offload: bool = False,
) -> MemoryEstimate:
    """Estimate for sampling `batch` videos at once with at most `tile_batch` tiles per call."""
    config, pyramid = network.config, network.pyramid
    tokens = math.prod(network.token_grid)
    branches = 2 if sampling.guided else 1
    copies = batch * branches
    video = batch * config.channels * math.prod(pyramid.resolution(levels - 1, sampling.canvas))
    rotating = sampling.tilings > 1  # the estimates of the step before are kept
    canvas = (CANVASES + branches * (1 + rotating)) * video
    # The finished coarser levels and their noisy versions: less than 2 / 7 of the finest together.
    canvas += math.ceil(video * 2 / 7)

    tiles = [len(tile_starts(pyramid, level, sampling.overlap, sampling.canvas)) for level in range(levels)]
    used = [  # while a level is sampled
        sum(len(starts) for _, starts in group_starts(level_tilings(pyramid, sampling, level, steps)[0]))
        for level, steps in enumerate(sampling.level_steps(levels))
    ]
    latents = copies * (sum(tiles[:-1]) + max(used)) * config.num_latents * config.latent_width
    held = 0
    uses_context = FUSIONS[config.fusion].uses_context
    if use_cache and uses_context:
        block_inputs = [
            count * sum(hosted > level + 1 for hosted in config.levels_per_block)
            for level, count in enumerate(tiles[:-1])
        ]
        fused = [
            count * sum(hosted > max(level, 1) for hosted in config.levels_per_block)
            for level, count in enumerate(used)
        ]
        finest = max(range(levels), key=lambda level: sum(block_inputs[:level]) + fused[level])
        held = copies * (sum(block_inputs[:finest]) + fused[finest]) * tokens * config.token_width
    on_host = held if offload else 0
    return MemoryEstimate(
        weights=4 * sum(p.numel() for p in network.parameters()),
        canvas=4 * canvas,
        cache=4 * (latents + held - on_host),
        call=tile_batch * tile_bytes(network, levels, use_cache, offload),
        host=4 * on_host,
    )


def tile_bytes(network: "LevelNetwork", levels: int, use_cache: bool = True, offload: bool = False) -> int:
    """What one tile of a call takes while the network works on it."""
    config = network.config
    tokens = math.prod(network.token_grid)
    d, D = config.token_width, config.latent_width
    io = config.io_heads * config.io_head_width
    compute = config.compute_heads * config.compute_head_width
    # The largest step is a feed-forward on tokens or an attention's keys and values, beside what is carried on.
    on_tokens = tokens * (3 * d + max(2 * config.token_expansion * d, 3 * io))
    on_latents = config.num_latents * (3 * D + max(2 * config.latent_expansion * D, 5 * compute))
    constants = 0
    if not use_cache or offload:
        # Block inputs of every coarser level, or the constants of this call and the next.
        constants = max(2, levels) * len(config.levels_per_block) * tokens * d
    return 4 * (on_tokens + on_latents + constants)


def free_memory(device: torch.device | str) -> int:
    """Bytes free on the device; on a processor, what the system can give without swapping."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 2**63 - 1  # unknown: nothing to refuse a run on
    return min(available, _group_limit())


def _group_limit():
    """What is left of a container's own limit, which the system's figures do not show."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return 2**63 - 1
    return 2**63 - 1 if limit == "max" else max(0, int(limit) - used)


def choose_batch(
    network: "LevelNetwork",
    sampling: SamplingConfig,
    *,
    levels: int,
    device: torch.device | str,
    use_cache: bool,
    offload: bool,
    at_least: int,
) -> int:
    """Videos made at once, such that they fit into free memory with the smallest calls, `at_least` tiles of them.

    On a processor as many as fill a call on level 0, `at_least`: more gain nothing. On a GPU up to as many as give
    calls of MOST_TOKENS data tokens there; then halved until they fit. One video is tried whatever the memory.
    """
    plan: MemorySettings = {"levels": levels, "use_cache": use_cache, "offload": offload}
    batch = at_least
    if torch.device(device).type == "cuda":
        batch = max(at_least, 2 ** int(math.log2(max(1, MOST_TOKENS / math.prod(network.token_grid)))))
        batch = min(batch, LARGEST_CALL)
    room = SHARE * free_memory(device)
    while (
        batch > 1
        and estimate_memory(network, sampling, batch=batch, tile_batch=min(batch, at_least), **plan).needed > room
    ):
        batch //= 2
    return batch


def choose_tile_batch(
    network: "LevelNetwork",
    sampling: SamplingConfig,
    *,
    levels: int,
    batch: int,
    device: torch.device | str,
    use_cache: bool,
    offload: bool,
    at_least: int,
) -> int:
    """Tiles per call that fit into free memory beside canvas and cache: a power of two, `at_least` or more.

    On a processor larger calls gain nothing, so there it is `at_least`.
    """
    if torch.device(device).type == "cpu":
        return at_least
    plan: MemorySettings = {"levels": levels, "use_cache": use_cache, "offload": offload}
    room = SHARE * free_memory(device) - estimate_memory(network, sampling, batch=batch, tile_batch=0, **plan).needed
    fitting = int(room // tile_bytes(network, levels, use_cache, offload))
    return max(at_least, min(LARGEST_CALL, 2 ** (max(fitting, 1).bit_length() - 1)))


def fitting_batch(
    network: "LevelNetwork",
    sampling: SamplingConfig,
    *,
    levels: int,
    device: torch.device | str,
    use_cache: bool = True,
    offload: bool = False,
) -> int:
    """`choose_batch` with the smallest calls that a network may have."""
    plan: MemorySettings = {"levels": levels, "use_cache": use_cache, "offload": offload}
    return choose_batch(network, sampling, device=device, at_least=smallest_call(network), **plan)


def fitting_tile_batch(
    network: "LevelNetwork",
    sampling: SamplingConfig,
    *,
    levels: int,
    batch: int,
    device: torch.device | str,
    use_cache: bool = True,
    offload: bool = False,
) -> int:
    """`choose_tile_batch` with the smallest calls that a network may have."""
    plan: MemorySettings = {"levels": levels, "use_cache": use_cache, "offload": offload}
    return choose_tile_batch(network, sampling, batch=batch, device=device, at_least=smallest_call(network), **plan)


def smallest_call(network: "LevelNetwork") -> int:
    """`reference_size` of a network: tiles of the calls that all others must agree with."""
    return reference_size(math.prod(network.token_grid))


def check_memory(
    network: "LevelNetwork",
    sampling: SamplingConfig,
    batch: int,
    tile_batch: int,
    device: torch.device,
    *,
    levels: int,
    use_cache: bool = True,
    offload: bool = False,
    quiet: bool = False,
) -> None:
    """Note what sampling needs and what is free; raises InputError, with what would help, where that is not enough."""
    plan: MemorySettings = {"levels": levels, "use_cache": use_cache, "offload": offload}
    estimate = estimate_memory(network, sampling, batch=batch, tile_batch=tile_batch, **plan)
    free = free_memory(device)
    note(
        f"memory for {batch} videos at once, {tile_batch} tiles per call: about {estimate}; {free / GIB:.2f} GiB free",
        quiet,
    )
    advice = []
    if estimate.needed > free:
        advice += ["--batch 1"] * (batch > 1) + ["a smaller --tile-batch"] * (tile_batch > 1)
        advice += ["--offload"] * (estimate.cache > 0 and device.type == "cuda" and not offload)
        advice += ["less --overlap"] * (sampling.overlap != "none") + ["--no-cache"] * use_cache
        advice += ["fewer --levels"]
    elif estimate.host > free_memory("cpu"):
        advice = ["a run without --offload", "--batch 1", "less --overlap"]
    if advice:
        raise InputError(
            f"sampling would not fit into memory: about {estimate} needed, {free / GIB:.2f} GiB free; "
            f"what helps: {', '.join(advice)}"
        )
