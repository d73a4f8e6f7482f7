"""What can be set about the network, and about the texts it reads."""

from dataclasses import dataclass

from hpdm.support.errors import InputError

MEASURES = ("fps", "height", "width")

FUSION_MODES = ("deep", "shallow", "detached", "no-coordinates", "none")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Widths and depths; the defaults are HPDM-L's (table 8 of the paper)."""

    token: tuple[int, int, int] = (1, 4, 4)  # pixels of one data token, (frames, rows, columns)
    token_width: int = 1024  # channels d of a data token
    latent_width: int = 1024  # channels D of a latent
    num_latents: int = 768  # learned latents M, the same for every level
    levels_per_block: tuple[int, ...] = (1, 1, 2, 2, 3, 3)  # how many levels, coarsest first, each block works on
    compute_layers: int = 4  # latent self-attention layers per block
    io_heads: int = 16  # heads of the attentions between latents, tokens and condition
    io_head_width: int = 64
    compute_heads: int = 24  # heads of the latent self-attention
    compute_head_width: int = 128
    latent_expansion: int = 4  # hidden width of the feed-forwards on latents, over D
    token_expansion: int = 2  # hidden width of the feed-forward on data tokens, over d
    dropout: float = 0.1  # in the feed-forwards of the latent self-attention layers
    condition_width: int = 1024  # channels of a condition token
    noise_frequencies: int = 256  # sinusoids (sine and cosine) of the noise level's embedding
    num_classes: int = 101  # 0: unconditional
    text_width: int = 0  # channels of a text's embeddings; 0: no text
    text_tokens: int = 128  # most tokens of a text
    text_vocabulary: int = 0  # words that the network embeds itself; 0: embeddings come from the encoder of `text`
    text_layers: int = 2  # self-attention layers over the words that it embeds itself
    measures: tuple[str, ...] = ()  # conditions taken from the source video: fps, height, width
    channels: int = 3
    fusion: str = "deep"  # deep, shallow, detached, no-coordinates or none: see hpdm/model/fusion.py
    self_conditioning: bool = True  # start the latents from those of an earlier estimate

    def __post_init__(self):
        if self.fusion not in FUSION_MODES:
            raise InputError(f"network.fusion must be one of {', '.join(FUSION_MODES)}; got {self.fusion!r}")
        levels = self.levels_per_block
        if not levels or min(levels) < 1 or list(levels) != sorted(levels):
            # A coarse level has to run every block that a finer one runs: its block input is the finer one's context.
            raise InputError(
                f"network.levels_per_block must not be empty, start at 1 or more and never fall; got {levels}"
            )
        for name in ("token_width", "latent_width", "num_latents", "io_heads", "compute_heads", "text_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"network.{name} must be at least 1; got {getattr(self, name)}")
        for name in ("num_classes", "text_width", "text_vocabulary", "text_layers"):
            if getattr(self, name) < 0:
                raise InputError(f"network.{name} must be 0 or more; got {getattr(self, name)}")
        if set(self.measures) - set(MEASURES) or len(set(self.measures)) < len(self.measures):
            raise InputError(f"network.measures takes each of {', '.join(MEASURES)} once; got {list(self.measures)}")
        if self.compute_layers < 0 or not 0 <= self.dropout < 1 or min(self.token) < 1:
            raise InputError("network needs compute_layers >= 0, 0 <= dropout < 1 and positive token sizes")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How captions and prompts become what the network reads; see hpdm/model/text.py."""

    encoder: str = "google-t5/t5-11b"  # a T5 by folder or hub id, or "words": the network embeds words by itself
    words: tuple[str, ...] = ()  # the vocabulary of "words"
    encoder_precision: str = "fp32"  # of the T5: "fp32" or "bf16"

    def __post_init__(self):
        if self.encoder_precision not in ("fp32", "bf16"):
            raise InputError(f"text.encoder_precision must be fp32 or bf16; got {self.encoder_precision!r}")
