"""Conditioning inputs of a network for each sample, and the tokens that latents read them from.

The tokens are, in this order: noise level, class, frame rate, height and width, text; a configuration names those that
a network has. Text comes as embeddings of a frozen encoder, or as numbers of words that the network embeds itself.

B batch, K text tokens of width w, c width of a condition token.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from hpdm.config.network import MEASURES
from hpdm.model.rin import Attention, FeedForward, NoiseLevelEmbedding

if TYPE_CHECKING:
    from hpdm.config.network import NetworkConfig


PADDING, UNKNOWN, SPECIAL_WORDS = 0, 1, 2  # numbers of no word and of one outside the vocabulary; how many such


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions:
    """What a batch of samples is conditioned on; every tensor begins with the same dimensions, [B] or [branches, B]."""

    labels: torch.Tensor  # int64 [B]; a network's `null_label` for no class
    text: torch.Tensor | None = None  # float [B, K, w], or int64 [B, K] numbers of words
    mask: torch.Tensor | None = None  # bool [B, K]: which text tokens there are; none stands for no text
    measures: torch.Tensor | None = None  # float32 [B, 3]: `MEASURES` of the source: 0 fps for a still image

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> torch.Size:
        return self.labels.shape

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Conditions":
        """`function` of every tensor there is."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Conditions(**{name: None if value is None else function(value) for name, value in values.items()})

    def __getitem__(self, index: Any) -> "Conditions":
        return self.each(lambda tensor: tensor[index])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Conditions":
        return self.each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def repeat(self, times: int) -> "Conditions":
        """The batch `times` times in a row."""
        return self.each(lambda tensor: tensor.repeat(times, *[1] * (tensor.ndim - 1)))

    def without(self, which: torch.Tensor | bool, null_label: int) -> "Conditions":
        """Neither class nor text where `which`, bool [B] or True, says so."""
        which = torch.as_tensor(which, device=self.device).expand(self.shape)
        mask = None if self.mask is None else self.mask & ~which[..., None]
        return dataclasses.replace(self, labels=self.labels.masked_fill(which, null_label), mask=mask)


# What callers may give: labels int64 [B], -1 for none, or everything that a network is conditioned on. Within, there is
# one type: `as_conditions` stands at every entrance.
Labels: TypeAlias = torch.Tensor | Conditions


def as_conditions(conditions: Labels) -> Conditions:
    """`Conditions` of what may be labels int64 [B] alone."""
    return conditions if isinstance(conditions, Conditions) else Conditions(labels=conditions)


def drop_conditions(conditions: Conditions, dropped: torch.Tensor | bool, null_label: int) -> Conditions:
    """`Conditions` as a network takes them: without class and text where `dropped`.

    dropped: bool [B], or one for all. A label of -1, which data without classes have, becomes `null_label`.
    """
    labels = torch.where(conditions.labels < 0, null_label, conditions.labels)
    return dataclasses.replace(conditions, labels=labels).without(dropped, null_label)


def guidance_branches(conditions: Conditions, null_label: int, guided: bool) -> Conditions:
    """`Conditions` [B] → those of each branch of guidance: [1, B], or [2, B] with the second one without class and
    text."""
    whole = conditions.each(lambda tensor: tensor[None])
    if not guided:
        return whole
    null = whole.without(True, null_label)
    names = [field.name for field in dataclasses.fields(Conditions) if getattr(whole, field.name) is not None]
    return Conditions(**{name: torch.cat([getattr(whole, name), getattr(null, name)]) for name in names})


def no_conditions(config: "NetworkConfig", batch: int, device: torch.device | str = "cpu") -> Conditions:
    """Neither class nor text for a network of `NetworkConfig`: `Conditions` [B]."""
    labels = torch.full((batch,), config.num_classes, dtype=torch.int64, device=device)
    if not config.text_width and not config.measures:
        return Conditions(labels=labels)
    text = mask = None
    if config.text_width:
        shape = (batch, config.text_tokens)
        mask = torch.zeros(shape, dtype=torch.bool, device=device)
        text = torch.zeros(shape, dtype=torch.int64, device=device)
        if not config.text_vocabulary:
            text = torch.zeros(*shape, config.text_width, device=device)
    measures = torch.zeros(batch, len(MEASURES), device=device)
    return Conditions(labels=labels, text=text, mask=mask, measures=measures)


class TextTokens(nn.Module):
    """Condition tokens of a text: projected embeddings, or the states of a small transformer over words.

    A sample without text has one token, a learned one.
    """

    def __init__(self, config: "NetworkConfig") -> None:
        super().__init__()
        w, c = config.text_width, config.condition_width
        self.words = self.positions = self.layers = None
        if config.text_vocabulary:
            self.words = nn.Embedding(config.text_vocabulary, w)
            self.positions = nn.Parameter(torch.empty(config.text_tokens, w))
            attention = {"width": config.io_heads * config.io_head_width, "heads": config.io_heads}
            self.layers = nn.ModuleList()
            for _ in range(config.text_layers):
                self.layers += [Attention(w, **attention), FeedForward(w, config.latent_expansion)]
        self.norm = nn.LayerNorm(w)
        self.project = nn.Linear(w, c)
        self.null = nn.Parameter(torch.empty(c))

    def tables(self) -> list[torch.Tensor]:
        """The learned tables, which start as noise."""
        return [self.null] if self.words is None else [self.null, self.words.weight, self.positions]

    def forward(self, text: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """text [B, K, w] or [B, K], mask bool [B, K] → (tokens [B, K, c], mask bool [B, K] with at least one token)."""
        some = mask.any(1)
        first = torch.zeros_like(mask)
        first[:, 0] = True
        mask = torch.where(some[:, None], mask, first)
        if self.words is not None and self.layers is not None:
            text = self.words(text) + self.positions
            for layer in self.layers:
                text = layer(text, mask=mask) if isinstance(layer, Attention) else layer(text)
        tokens = self.project(self.norm(text.to(self.norm.weight.dtype)))
        return torch.where(some[:, None, None], tokens, self.null.to(tokens.dtype)), mask


class MeasureTokens(nn.Module):
    """A condition token each for the frame rate and for the size of the video that a clip was cut from."""

    def __init__(self, config: "NetworkConfig") -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {name: NoiseLevelEmbedding(config.noise_frequencies, config.condition_width) for name in config.measures}
        )

    def forward(self, measures: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3] as (frames per second, rows, columns) → [B, measures, c]."""
        fps, *sizes = measures.unbind(-1)
        # Both within the range of values that the embedding tells apart, [-2, 1]: 0 to 60 fps, 16 to 8,000 pixels.
        scaled = [fps.log1p() / 4, *((size.clamp(min=1) / 256).log() / 4 for size in sizes)]
        by_name = dict(zip(MEASURES, scaled, strict=True))
        return torch.stack([embed(by_name[name]) for name, embed in self.embeddings.items()], dim=1)
