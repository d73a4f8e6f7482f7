"""How many tiles go through the network at once, such that no bit of a sample depends on it.

Matrix products of different heights may take different kernels and then differ in the last bits, so tiles that share a
call could give a sample other bytes than the same tiles alone. Which kernel runs depends on shapes and not on values:
one trial per call size on the device at hand therefore tells which sizes agree with each other, exactly. Tiles then
travel in calls of those sizes only; a remainder that none of them fits is padded.

The size that the others must agree with follows from the network alone, not from memory, batch or number of processes.

T tiles of a call, N data tokens of width d.
"""

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hpdm.model.conditioning import no_conditions

if TYPE_CHECKING:
    from hpdm.model.network import LevelNetwork


TOKENS_PER_CALL = 4096  # data tokens that fill a call on a processor; larger calls are for GPUs
LARGEST_CALL = 256  # tiles


@dataclass(frozen=True, kw_only=True)
class CallSizes:
    """Numbers of tiles per call that give the same bits, increasing, and the processor threads they were tried with."""

    sizes: tuple[int, ...]
    threads: int

    def split(self, count: int) -> list[tuple[int, int]]:
        """Cut `count` tiles into calls: (size, how many of them are real) each; only the last one may be padded."""
        calls = []
        while count:
            size = max((s for s in self.sizes if s <= count), default=self.sizes[0])
            calls.append((size, min(size, count)))
            count -= calls[-1][1]
        return calls


def reference_size(tokens: int) -> int:
    """Tiles of a call of about TOKENS_PER_CALL data tokens, for patches of `tokens`: a power of two from 1 to 16."""
    return 2 ** min(4, max(0, int(math.log2(TOKENS_PER_CALL / tokens)))) if tokens < TOKENS_PER_CALL else 1


def largest_calls(limit: int) -> CallSizes:
    """Calls of up to `limit` tiles without a trial: the last bits of a sample then depend on what shares its calls."""
    sizes = tuple(2**i for i in range(limit.bit_length()) if 2**i <= limit)
    return CallSizes(sizes=sizes, threads=torch.get_num_threads())


@torch.no_grad()
def find_call_sizes(network: "LevelNetwork", limit: int, device: torch.device | str = "cpu") -> CallSizes:
    """Call sizes of at most `limit` tiles that agree bit for bit on `device`, for a network as `TiledSampler` takes it.

    Lowers PyTorch's number of processor threads to one where several give other bits than one; `threads` of the answer
    says how many are left. Where no size up to `limit` agrees with the reference, the smallest that does is returned.
    """
    reference = reference_size(math.prod(network.token_grid))
    ladder = [2**i for i in range(LARGEST_CALL.bit_length()) if 2**i <= max(limit, reference)]
    threads = torch.get_num_threads()
    if ladder == [1]:
        return CallSizes(sizes=(1,), threads=threads)
    trial = _Trial(network, device)
    wanted = None
    if torch.device(device).type == "cpu" and threads > 1:
        torch.set_num_threads(1)
        wanted = trial.run(reference)
        torch.set_num_threads(threads)
        if wanted is not None and not _same(trial.run(reference), wanted):
            torch.set_num_threads(1)
            threads = 1
    wanted = trial.run(reference) if wanted is None else wanted
    if wanted is None:  # results depend on a tile's place in the call: only tiles alone are safe
        return CallSizes(sizes=(1,), threads=threads)
    agreeing = [size for size in ladder if size == reference or _same(trial.run(size), wanted)]
    return CallSizes(sizes=tuple(s for s in agreeing if s <= limit) or (agreeing[0],), threads=threads)


@torch.no_grad()
def call_rates(
    network: "LevelNetwork", sizes: dict[str, CallSizes], device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Tiles per second on level 0 in the largest calls of each entry of `sizes`: what bit-equality costs there."""
    trial = _Trial(network, device)
    return {name: trial.rate(calls.sizes[-1]) for name, calls in sizes.items()}


class _Trial:
    """One random tile, run in calls that hold it several times."""

    def __init__(self, network, device):
        generator = torch.Generator().manual_seed(0)
        random = lambda *shape: torch.randn(*shape, generator=generator).to(device)  # noqa: E731
        self.network, self.device = network, device
        config, pyramid = network.config, network.pyramid
        self.patch = random(1, config.channels, *pyramid.patch)
        self.rgb = random(1, config.channels, *pyramid.patch) if network.concatenates_rgb else None
        self.parents = [random(1, math.prod(network.token_grid), config.token_width) for _ in range(pyramid.levels - 1)]

    def rate(self, size):
        """Tiles per second in calls of `size`, the faster of two behind one that warms up."""
        network, repeat = self.network, lambda x: None if x is None else x.repeat(size, *[1] * (x.ndim - 1))
        start = torch.zeros(size, 3, dtype=torch.int64, device=self.device)
        arguments = (
            0,
            repeat(self.patch),
            torch.full((size,), -0.3, device=self.device),
            no_conditions(network.config, size, self.device),
            network.level_constants(0, start, []),
        )
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            network.forward_level(*arguments, previous_rgb=repeat(self.rgb))
            if torch.device(self.device).type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds.append(time.perf_counter() - began)
        return size / min(seconds[1:])

    def run(self, size):
        """Results of the tile [1, ...], or None where its places in a call of `size` give different bits."""
        network, blocks = self.network, len(self.network.config.levels_per_block)
        repeat = lambda x: None if x is None else x.repeat(size, *[1] * (x.ndim - 1))  # noqa: E731
        start = torch.zeros(size, 3, dtype=torch.int64, device=self.device)
        labels = no_conditions(network.config, size, self.device)
        c_noise = torch.full((size,), -0.3, device=self.device)
        results = []
        latents = torch.zeros(size, network.config.num_latents, network.config.latent_width, device=self.device)
        parents = [(start, [repeat(tokens)] * blocks) for tokens in self.parents]
        results += network.level_constants(len(parents), start, parents)
        constants = network.level_constants(0, start, [])
        for _ in range(2):
            out = network.forward_level(
                0, repeat(self.patch), c_noise, labels, constants, latents=latents, previous_rgb=repeat(self.rgb)
            )
            latents = out.latents
            results += [out.output, out.latents]
        results = [r for r in results if r is not None and r.ndim > 2]
        if any(not torch.equal(r, r[:1].expand_as(r)) for r in results):
            return None
        return [r[:1].clone() for r in results]


def _same(results, wanted):
    return results is not None and all(torch.equal(a, b) for a, b in zip(results, wanted, strict=True))
