"""Parts of a Recurrent Interface Network (Jabri et al. 2022, arXiv 2212.11972) with Snap Video's widths.

A few latents do the computing and read from and write to many data tokens. The widths of the attentions do not follow
the widths of what they connect; the paper's parameter counts come out only so (table 8).

B batch, N data tokens of width d, M latents of width D, K condition tokens.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from hpdm.config.network import NetworkConfig


MASK_64 = (1 << 64) - 1


def full_precision(tensor: torch.Tensor) -> AbstractContextManager:
    """Context in which autocast leaves products with `tensor` alone."""
    device = tensor.device.type
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def mix(number: int) -> int:
    """A 64-bit number that looks unrelated to those of other numbers (splitmix64)."""
    number = (number + 0x9E3779B97F4A7C15) & MASK_64
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK_64
    return number ^ (number >> 31)


# One opaque operation that depends on its arguments alone, so that recomputed activations and torch.compile get the
# same mask again.
@torch.library.custom_op("hpdm::dropout_mask", mutates_args=())
def dropout_mask(seeds: torch.Tensor, like: torch.Tensor, stream: int, p: float) -> torch.Tensor:
    """What is kept, bool of the shape of `like` [L * B, ...], level-major: each value with probability 1 - p.

    seeds: int64 [B] on the CPU; the mask of a sample on a level follows from its seed, the level and `stream`. Where
    levels have several windows, each counts like a level.
    """
    mask = torch.empty(like.shape, dtype=torch.bool, device=like.device)
    generator = torch.Generator(like.device)
    seeds = seeds.tolist()
    for row, kept in enumerate(mask):
        level, sample = divmod(row, len(seeds))
        kept.bernoulli_(1 - p, generator=generator.manual_seed(mix(seeds[sample] ^ mix(2 * level + stream)) >> 1))
    return mask


@dropout_mask.register_fake
def _(seeds, like, stream, p):
    return torch.empty_like(like, dtype=torch.bool)


class SampleDropout(nn.Module):
    """Dropout whose masks belong to the samples of a batch, not to their places in it: see `seed_samples`.

    Without seeds, or once they are None, masks come from torch's global generator as those of `nn.Dropout`.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.seeds = None  # int64 [B] on the CPU

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[L * B, ...], level-major, of the same shape."""
        if not self.training or self.p == 0:
            return x
        if self.seeds is None:
            return F.dropout(x, self.p)
        # The first pass of self-conditioning, which has no gradient, gets other masks than the second.
        kept = torch.ops.hpdm.dropout_mask(self.seeds, x.detach(), int(torch.is_grad_enabled()), self.p)
        return x * kept * (1 / (1 - self.p))


def seed_samples(network: nn.Module, seeds: Sequence[int]) -> None:
    """Let all dropout of `network` follow from `seeds`, one whole number for each of the B samples of the next pass."""
    layers = [module for module in network.modules() if isinstance(module, SampleDropout)]
    for number, layer in enumerate(layers):
        layer.seeds = torch.tensor([mix(seed ^ mix(number)) >> 1 for seed in seeds], dtype=torch.int64)


@contextmanager
def chosen_samples(network: nn.Module, chosen: torch.Tensor) -> Iterator[None]:
    """Within the block passes of `network` are of the samples `chosen`, int64 [k], of those that were seeded."""
    layers = [module for module in network.modules() if isinstance(module, SampleDropout) and module.seeds is not None]
    kept = [layer.seeds for layer in layers]
    for layer in layers:
        layer.seeds = layer.seeds[chosen]
    try:
        yield
    finally:
        for layer, seeds in zip(layers, kept, strict=True):
            layer.seeds = seeds


class Attention(nn.Module):
    """Residual attention with LayerNorm on both sides; attends to itself where no context is given.

    `width` = heads x head width of queries, keys and values; input and output have `inputs` channels, the context
    `context` channels.
    """

    def __init__(self, inputs: int, width: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.precision = None  # dtype of the products with scores, see `set_attention_precision`; None: the input's
        self.norm = nn.LayerNorm(inputs)
        self.norm_context = nn.LayerNorm(context) if context else None
        self.query = nn.Linear(inputs, width)
        self.key_value = nn.Linear(context or inputs, 2 * width)
        self.out = nn.Linear(width, inputs)

    def forward(
        self, x: torch.Tensor, context: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B, n, inputs] and optionally [B, m, context] → [B, n, inputs]; mask: bool [B, m], what is attended to."""
        normed = self.norm(x)
        source = normed if self.norm_context is None else self.norm_context(context)
        query = self._split(self.query(normed))
        key, value = (self._split(t) for t in self.key_value(source).chunk(2, dim=-1))
        mask = None if mask is None else mask[:, None, None]
        if self.precision is not None:
            query, key, value = (t.to(self.precision) for t in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # [B, heads, n, head width]
        if self.precision is not None:
            attended = attended.to(x.dtype)
        return x + self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


ATTENTION_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def set_attention_precision(network: nn.Module, name: str) -> None:
    """Let all attentions of a network multiply queries, keys, scores and values in "fp32", "bf16" or "fp16".

    Half precision lets a GPU take its flash kernel, which has no fp32 form; projections, norms and everything else stay
    as they are. "fp32" is the precision of the rest.
    """
    for module in network.modules():
        if isinstance(module, Attention):
            module.precision = ATTENTION_DTYPES[name]


class FeedForward(nn.Module):
    """Residual two-layer perceptron behind a LayerNorm; `expansion` is its hidden width over its input's."""

    def __init__(self, width: int, expansion: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, expansion * width)
        self.out = nn.Linear(expansion * width, width)
        self.dropout = SampleDropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.out(self.dropout(F.gelu(self.hidden(self.norm(x)))))


class RINBlock(nn.Module):
    """Latents read the condition, then the data tokens, compute among themselves, and write back to the tokens."""

    def __init__(self, config: "NetworkConfig") -> None:
        super().__init__()
        d, D, c = config.token_width, config.latent_width, config.condition_width
        io = {"width": config.io_heads * config.io_head_width, "heads": config.io_heads}
        compute = {"width": config.compute_heads * config.compute_head_width, "heads": config.compute_heads}
        self.condition = nn.ModuleList([Attention(D, context=c, **io), FeedForward(D, config.latent_expansion)])
        self.read = nn.ModuleList([Attention(D, context=d, **io), FeedForward(D, config.latent_expansion)])
        self.compute = nn.ModuleList()
        for _ in range(config.compute_layers):
            self.compute += [Attention(D, **compute), FeedForward(D, config.latent_expansion, config.dropout)]
        self.write = nn.ModuleList([Attention(d, context=D, **io), FeedForward(d, config.token_expansion)])

    def forward(
        self,
        tokens: torch.Tensor,
        latents: torch.Tensor,
        condition: torch.Tensor,
        mask: torch.Tensor | None = None,
        write: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """tokens [B, N, d], latents [B, M, D], condition [B, K, c] → (tokens, latents) of the same shapes.

        mask: bool [B, K], which condition tokens there are; None: all. Without `write` the tokens return as they came.
        """
        for (attention, feed_forward), *context in ((self.condition, condition, mask), (self.read, tokens)):
            latents = feed_forward(attention(latents, *context))
        for layer in self.compute:
            latents = layer(latents)
        if not write:
            return tokens, latents
        attention, feed_forward = self.write
        return feed_forward(attention(tokens, latents)), latents


class Tokenizer(nn.Module):
    """Cuts a patch into tokens, projects them linearly and adds a learned position per frame, row and column.

    Positions count from the patch's first corner; a patch smaller than `grid` tokens takes the first of them.
    """

    def __init__(self, channels: int, token: tuple[int, int, int], grid: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.token = token
        self.project = nn.Linear(channels * math.prod(token), width)
        self.norm = nn.LayerNorm(width)
        self.positions = nn.ParameterList([nn.Parameter(torch.empty(n, width)) for n in grid])

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        """[B, C, T, H, W] → [B, N, d], tokens in the order frame, row, column."""
        # In bf16 the noise of low levels would be lost in rounding, and pixel coordinates given as channels move.
        with full_precision(patch):
            tokens = self.norm(self.project(tokens_of(patch, self.token)))
        count = (size // token for size, token in zip(patch.shape[2:], self.token, strict=True))
        frames, rows, columns = (table[:n] for table, n in zip(self.positions, count, strict=True))
        positions = frames[:, None, None] + rows[:, None] + columns
        return tokens + positions.flatten(0, 2)


class Detokenizer(nn.Module):
    """LayerNorm and a linear layer from tokens back to the pixels of a patch."""

    def __init__(self, channels: int, token: tuple[int, int, int], grid: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.token, self.grid = token, grid
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, channels * math.prod(token))

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int, int] | None = None) -> torch.Tensor:
        """[B, N, d] → [B, C, T, H, W]; `grid`: tokens along each axis, where they are not the usual ones."""
        return patch_of(self.project(self.norm(tokens)), self.token, grid or self.grid)


def tokens_of(patch: torch.Tensor, token: tuple[int, int, int]) -> torch.Tensor:
    """[B, C, T, H, W] → [B, N, C * prod(token)]."""
    (b, c, t, h, w), (tt, th, tw) = patch.shape, token
    patch = patch.reshape(b, c, t // tt, tt, h // th, th, w // tw, tw)
    return patch.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, -1, c * tt * th * tw)


def patch_of(tokens: torch.Tensor, token: tuple[int, int, int], grid: tuple[int, int, int]) -> torch.Tensor:
    """The inverse of `tokens_of` for a token grid (F, H, W)."""
    (f, h, w), (tt, th, tw) = grid, token
    tokens = tokens.unflatten(2, (-1, tt, th, tw)).unflatten(1, (f, h, w))  # [B, F, H, W, C, tt, th, tw]
    tokens = tokens.permute(0, 4, 1, 5, 2, 6, 3, 7)
    return tokens.reshape(*tokens.shape[:2], f * tt, h * th, w * tw)


class NoiseLevelEmbedding(nn.Module):
    """Sinusoids of c_noise through a two-layer perceptron: [B] → [B, width]."""

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__()
        # c_noise = ln(sigma) / 4 spans about [-2, 1]: from half a period over that range to a sixtieth of it.
        self.register_buffer("scale", torch.empty(frequencies // 2), persistent=False)
        self.reset_scale()
        self.hidden = nn.Linear(frequencies, width)
        self.out = nn.Linear(width, width)

    def reset_scale(self) -> None:
        """Fill in the frequencies, which are no parameters."""
        self.scale.copy_(torch.exp(torch.linspace(0, math.log(64), len(self.scale))) * math.pi / 2)

    def forward(self, c_noise: torch.Tensor) -> torch.Tensor:
        angles = c_noise[:, None] * self.scale
        return self.out(F.silu(self.hidden(torch.cat([angles.sin(), angles.cos()], dim=-1))))
