"""The HPDM network: one RIN for all levels of a patch pyramid, joined by context fusion (section 4 of the paper).

In training all levels run jointly, block by block: block `b` works on the first `levels_per_block[b]` levels (adaptive
computation). A level that joins late enters with its tokens as the tokenizer made them and with fresh latents. In
sampling one level runs at a time on what its finished coarser levels left behind; both ways share the blocks.

Information flows from coarse to fine only: a block's context is the *input* of that block on coarser levels.

B batch, L levels, N data tokens of width d, M latents of width D, K condition tokens of width c; level-major means
[L * B, ...]. In training a level may have several windows per sample, which share the coarser ones (branching): then L
counts windows instead of levels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hpdm.config import check_geometry
from hpdm.config.network import NetworkConfig
from hpdm.model.conditioning import Labels, MeasureTokens, TextTokens, as_conditions
from hpdm.model.fusion import FUSIONS, Geometry, resample_pixels
from hpdm.model.rin import Attention, Detokenizer, FeedForward, NoiseLevelEmbedding, RINBlock, Tokenizer
from hpdm.model.sharding import fill
from hpdm.pyramid import Pyramid

if TYPE_CHECKING:
    from hpdm.model.conditioning import Labels


class HierarchicalBlock(nn.Module):
    """Context fusion, where the block hosts several levels, then a RIN block."""

    def __init__(self, config: NetworkConfig, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.fusion = FUSIONS[config.fusion](config.token_width) if levels > 1 else None
        self.rin = RINBlock(config)

    def forward(
        self,
        tokens: torch.Tensor,
        latents: torch.Tensor,
        condition: torch.Tensor,
        geometry: Geometry,
        mask: torch.Tensor | None = None,
        write: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All hosted levels, level-major: tokens [l*B, N, d], latents [l*B, M, D], condition [l*B, K, c] with mask.

        Without `write` the tokens that return are of no use.
        """
        if self.fusion is not None:
            by_level = tokens.split(geometry.rows(self.levels))
            constants = []
            for level in range(len(by_level)):
                context = self.fusion.gather(list(by_level[:level]), level, geometry)
                constants.append(self.fusion.constant(context, geometry.coordinates(level)).expand_as(by_level[level]))
            tokens = self.fusion(tokens, torch.cat(constants))
        return self.rin(tokens, latents, condition, mask, write)

    def forward_level(
        self,
        tokens: torch.Tensor,
        latents: torch.Tensor,
        condition: torch.Tensor,
        constant: torch.Tensor | None,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One level with its fusion's constant [B, N, d] (None where the block has no fusion)."""
        if self.fusion is not None:
            tokens = self.fusion(tokens, constant)
        return self.rin(tokens, latents, condition, mask)


@dataclass(frozen=True, kw_only=True)
class LevelOutput:
    """What one level gives while sampling."""

    output: torch.Tensor  # network output F, [B, C, rf, rh, rw]
    latents: torch.Tensor  # latents after the last block, [B, M, D]: carried to the next step
    activations: list | None  # inputs [B, N, d] of each block before its fusion, None for blocks the level skips


class LevelNetwork(Protocol):
    """What sampling asks of a network: its per-level interface. `HPDM` has it, and the networks of other methods."""

    config: NetworkConfig
    pyramid: Pyramid
    concatenates_rgb: bool  # whether `forward_level` takes the previous level's pixels

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """Data tokens of a patch along frames, rows and columns."""

    @property
    def null_label(self) -> int:
        """The label of no class."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters."""

    def level_constants(self, level: int, start: torch.Tensor, parents: list) -> list:
        """What finished coarser levels fix of each block, for `forward_level`."""

    def forward_level(
        self,
        level: int,
        patch: torch.Tensor,
        c_noise: torch.Tensor,
        labels: Labels,
        constants: list,
        latents: torch.Tensor | None = None,
        previous_rgb: torch.Tensor | None = None,
        keep_activations: bool = False,
    ) -> LevelOutput:
        """Denoise patches of one level on finished coarser ones."""

    def shallow_context(
        self, level: int, start: torch.Tensor, parent_patch: torch.Tensor, parent_start: torch.Tensor
    ) -> torch.Tensor:
        """The previous level's pixels at the places of a window."""


class HPDM(nn.Module):
    """Hierarchical patch diffusion network.

    `extra_channels` of the input patches come after the pixels: what a method tells the network beside them. Raises
    InputError where the pyramid and the network do not fit together. Built on the meta device it costs nothing:
    `with torch.device("meta"): HPDM(...)`, then `to_empty` and `reset_parameters`.
    """

    def __init__(self, config: NetworkConfig, pyramid: Pyramid, extra_channels: int = 0) -> None:
        super().__init__()
        check_geometry(config, pyramid)
        self.config, self.pyramid = config, pyramid
        self.checkpoint_blocks = False  # recompute activations in the backward pass
        f, h, w = (r // t for r, t in zip(pyramid.patch, config.token, strict=True))
        self.token_grid = (f, h, w)
        d, D, c = config.token_width, config.latent_width, config.condition_width
        self.concatenates_rgb = FUSIONS[config.fusion].concatenates_rgb
        channels = config.channels * (2 if self.concatenates_rgb else 1) + extra_channels
        self.tokenizer = Tokenizer(channels, config.token, self.token_grid, d)
        self.noise_level = NoiseLevelEmbedding(config.noise_frequencies, c)
        # The last row stands for "no class".
        self.classes = nn.Embedding(config.num_classes + 1, c) if config.num_classes else None
        self.measures = MeasureTokens(config) if config.measures else None
        self.text = TextTokens(config) if config.text_width else None
        self.latents = nn.Parameter(torch.empty(config.num_latents, D))
        self.previous = FeedForward(D, config.latent_expansion) if config.self_conditioning else None
        self.previous_norm = nn.LayerNorm(D) if config.self_conditioning else None
        self.blocks = nn.ModuleList(HierarchicalBlock(config, levels) for levels in config.levels_per_block)
        self.detokenizer = Detokenizer(config.channels, config.token, self.token_grid, d)
        self.reset_parameters()

    def compile_blocks(self, **options: Any) -> None:
        """Let torch.compile, with its `options`, make the blocks faster; the first passes are slow."""
        for block in self.blocks:
            block.rin.compile(**options)

    @property
    def num_levels(self) -> int:
        return self.pyramid.levels

    @property
    def null_label(self) -> int:
        """The label that stands for "no class"."""
        return self.config.num_classes

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all starting values from torch's global generator; the network then predicts zero.

        They are the same whether the network is sharded or not.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                fill(module.weight, nn.init.xavier_uniform_)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        # Residual branches start small: the sum of many keeps the scale of the first.
        depth = sum(isinstance(module, Attention | FeedForward) for module in self.blocks.modules())
        for module in self.modules():
            if isinstance(module, Attention | FeedForward):
                module.out.weight.mul_(depth**-0.5)
            elif isinstance(module, HierarchicalBlock) and module.fusion is not None:
                module.fusion.reset()
        tables = [self.latents, *([] if self.classes is None else [self.classes.weight]), *self.tokenizer.positions]
        for table in tables + ([] if self.text is None else self.text.tables()):
            fill(table, nn.init.normal_, std=0.5 if table is self.latents else 0.2)
        if self.previous_norm is not None:
            nn.init.zeros_(self.previous_norm.weight)
        nn.init.zeros_(self.detokenizer.project.weight)
        for module in self.modules():
            if isinstance(module, NoiseLevelEmbedding):
                module.reset_scale()

    def forward(
        self,
        patches: list[torch.Tensor],
        c_noise: torch.Tensor,
        windows: torch.Tensor,
        labels: "Labels",
        latents: list[torch.Tensor] | None = None,
        branching: Sequence[int] | None = None,
        outputs: bool = True,
    ) -> tuple[list[torch.Tensor] | None, list[torch.Tensor]]:
        """Denoise all levels of a batch of pyramids jointly.

        patches: L tensors [B, C, rf, rh, rw], already multiplied by c_in; c_noise: float [B, L]; windows: int64
        [B, L, 3]; labels: int64 [B], `null_label` for none, or `Conditions` [B]; latents: None, or L tensors [B, M, D]
        of an earlier estimate. L may be less than the pyramid's number of levels: then the coarsest L run.
        Returns (L network outputs like the patches, L latents [B, M, D]).

        branching: windows per level, such as (1, 2, 4), as `sample_windows` draws them; L is then the sum, 7. A window
        gets the numbers that it gets in a pyramid of its own and its coarser windows. Without `outputs` only what the
        latents need is computed, and the first of what returns is None.
        """
        counts = branching or (1,) * len(patches)
        count, batch = len(patches), len(labels)
        starts = [part.transpose(0, 1).flatten(0, 1) for part in windows[:, :count].split(list(counts), dim=1)]
        geometry = Geometry(self.pyramid, starts, self.token_grid, patches[0].dtype, batch=batch)
        tokens = self.tokenizer(torch.cat(self._with_previous_rgb(patches, geometry, counts)))
        condition, mask = self._condition(c_noise.T[:count].reshape(-1), labels.repeat(count))
        state = self.start_latents(count * batch, None if latents is None else torch.cat(list(latents)))

        for index, block in enumerate(self.blocks):
            hosted = sum(counts[: block.levels]) * batch
            known = None if mask is None else mask[:hosted]
            # All levels run the last block, and nothing reads the tokens that it would write.
            write = outputs or index < len(self.blocks) - 1
            arguments = (tokens[:hosted], state[:hosted], condition[:hosted], geometry, known, write)
            if self.checkpoint_blocks and self.training and torch.is_grad_enabled():
                active, active_state = checkpoint(block, *arguments, use_reentrant=False)
            else:
                active, active_state = block(*arguments)
            tokens = torch.cat([active, tokens[hosted:]])
            state = torch.cat([active_state, state[hosted:]])
        if not outputs:
            return None, list(state.chunk(count))
        grid = tuple(size // token for size, token in zip(patches[0].shape[2:], self.config.token, strict=True))
        return list(self.detokenizer(tokens, grid).chunk(count)), list(state.chunk(count))

    def level_constants(
        self, level: int, start: torch.Tensor, parents: list[tuple[torch.Tensor, list]]
    ) -> list[torch.Tensor | None]:
        """The part of each block's fusion that finished coarser levels fix, for `forward_level`.

        start: int64 [B, 3], windows on the grid of `level`; parents: for each coarser level 0 .. level-1 its windows
        int64 [B, 3] that contain them, and its `activations`. Returns one [B, N, d] (or None) per block.
        """
        starts = [parent_start for parent_start, _ in parents] + [start]
        geometry = Geometry(self.pyramid, starts, self.token_grid, self.latents.dtype)
        constants = []
        for index, block in enumerate(self.blocks):
            if block.fusion is None or block.levels <= level:
                constants.append(None)
                continue
            context = block.fusion.gather([activations[index] for _, activations in parents], level, geometry)
            constants.append(block.fusion.constant(context, geometry.coordinates(level)))
        return constants

    def forward_level(
        self,
        level: int,
        patch: torch.Tensor,
        c_noise: torch.Tensor,
        labels: "Labels",
        constants: list[torch.Tensor | None],
        latents: torch.Tensor | None = None,
        previous_rgb: torch.Tensor | None = None,
        keep_activations: bool = False,
    ) -> LevelOutput:
        """Denoise one level on finished coarser ones.

        patch: [B, C, rf, rh, rw], already multiplied by c_in; c_noise: float [B]; labels: int64 [B] or `Conditions`;
        constants: of `level_constants`; latents: [B, M, D] of an earlier step or None; previous_rgb: for shallow
        fusion, the previous level's pixels at the places of the patch's (`shallow_context`); zeros on level 0.
        """
        if self.concatenates_rgb:
            patch = torch.cat([patch, torch.zeros_like(patch) if previous_rgb is None else previous_rgb], dim=1)
        tokens = self.tokenizer(patch)
        condition, mask = self._condition(c_noise, labels)
        state = self.start_latents(len(patch), latents)
        activations = []
        for block, constant in zip(self.blocks, constants, strict=True):
            if block.levels <= level:
                activations.append(None)
                continue
            activations.append(tokens)
            tokens, state = block.forward_level(tokens, state, condition, constant, mask)
        return LevelOutput(
            output=self.detokenizer(tokens), latents=state, activations=activations if keep_activations else None
        )

    def shallow_context(
        self, level: int, start: torch.Tensor, parent_patch: torch.Tensor, parent_start: torch.Tensor
    ) -> torch.Tensor:
        """The previous level's patch, resampled at the places of a window of `level`: [B, C, rf, rh, rw]."""
        starts = [parent_start, start]
        geometry = Geometry(self.pyramid, starts, self.token_grid, parent_patch.dtype, levels=[level - 1, level])
        return resample_pixels(parent_patch, level, geometry)

    def start_latents(self, count: int, previous: torch.Tensor | None = None) -> torch.Tensor:
        """Latents a level starts from: learned, plus what an earlier estimate left (latent self-conditioning).

        `previous` None, no earlier estimate, is the same as zeros.
        """
        latents = self.latents.expand(count, -1, -1)
        if self.previous is None or self.previous_norm is None:
            return latents
        if previous is None:
            previous = latents.new_zeros(1, 1, latents.shape[-1])
        return latents + self.previous_norm(self.previous(previous))

    def parameters_by_part(self) -> dict[str, int]:
        """Number of parameters of each part; the sum is the network's."""
        parts = {"tokenizer": 0, "condition": 0, "latents": 0, "fusion": 0, "blocks": 0, "detokenizer": 0}
        owners = dict.fromkeys(("noise_level", "classes", "measures", "text"), "condition")
        owners |= {"previous": "latents", "previous_norm": "latents"}
        for name, parameter in self.named_parameters():
            head = name.split(".", 1)[0]
            part = "fusion" if ".fusion." in name else owners.get(head, head)
            parts[part] = parts.get(part, 0) + parameter.numel()
        return parts

    def no_decay_parameters(self) -> set[str]:
        """Names of biases, norms and embeddings: they get neither weight decay nor a trust ratio."""
        embeddings = ("latents", "classes.", "tokenizer.positions", "text.words.", "text.positions")
        return {name for name, p in self.named_parameters() if p.ndim < 2 or name.startswith(embeddings)}

    @property
    def condition_tokens(self) -> int:
        """Number K of condition tokens."""
        inputs = (self.classes is not None) + len(self.config.measures)
        return 1 + inputs + (self.config.text_tokens if self.text is not None else 0)

    def _condition(self, c_noise, conditions):
        """Condition tokens [B, K, c] and which of them there are, bool [B, K] or None for all."""
        conditions = as_conditions(conditions)
        single = [self.noise_level(c_noise)]
        if self.classes is not None:
            single.append(self.classes(conditions.labels))
        tokens = torch.stack(single, dim=1)
        if self.measures is not None:
            tokens = torch.cat([tokens, self.measures(conditions.measures)], dim=1)
        if self.text is None:
            return tokens, None
        text, mask = self.text(conditions.text, conditions.mask)
        mask = torch.cat([mask.new_ones(tokens.shape[:2]), mask], dim=1)
        return torch.cat([tokens, text], dim=1), mask

    def _with_previous_rgb(self, patches, geometry, counts):
        if not self.concatenates_rgb:
            return patches
        patches = torch.cat(list(patches)).split([count * len(patches[0]) for count in counts])
        rgb = [torch.zeros_like(patches[0])]
        rgb += [resample_pixels(patches[level - 1], level, geometry) for level in range(1, len(patches))]
        return [torch.cat(pair, dim=1) for pair in zip(patches, rgb, strict=True)]
