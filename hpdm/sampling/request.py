"""What a caller may choose about sampling; importing this costs nothing, so that `hpdm-sample --help` is quick."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpdm.video.formats import DEFAULT_CRF

CALLS = ("exact", "fastest")
PRECISIONS = ("tf32", "fp32", "bf16", "fp16")
FORMATS = ("mp4", "npy")


NOISE_RANGE = ("sigma_min", "sigma_max", "rho")  # of `DiffusionConfig`: what sampling walks through, not training


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """What to sample from a checkpoint, and how. None leaves a setting as the checkpoint has it.

    What decides the samples: seed, what they show, and the settings. How they are computed, from `batch` on, changes
    no bit of them, but for `precision` and for `calls="fastest"`, which may change the last.
    """

    num: int  # videos in total
    seed: int = 0  # sample i depends on the seed and i, not on `num`

    # Sample i gets the i-th of these in turn. Classes by number or name, "all", or "none" for neither class nor text.
    classes: str | int | Sequence[int | str] | None = None
    # For models that read texts: texts, or a file of prompts, or "ucf101" for those that ship with hpdm.
    texts: Sequence[str] = ()
    prompts: str | Path | None = None
    text_encoder: str | None = None  # folder or hub id of the text encoder; None: as the checkpoint names it
    fps: float = 25.0  # frame rate of the videos; models that read one are conditioned on it

    sampler: str | None = None  # a named solver, tilings, start and weights: see `hpdm.config.sampling.SAMPLERS`
    overrides: Sequence[str] = ()  # "sampling.KEY=VALUE"
    settings: Mapping[str, Any] = field(default_factory=dict)  # fields of `SamplingConfig`; they win over the two above
    sigma_min: float | tuple[float, ...] | None = None  # noise level of the last step, one number or one per level
    sigma_max: float | tuple[float, ...] | None = None  # noise level of the first step
    rho: float | None = None  # how steps spread over noise levels
    levels: int | None = None  # stop after this many levels, at their resolution
    size: tuple[int, ...] | None = None  # frames, rows, columns of the videos
    beyond_training: bool = False  # allow whole multiples of the trained size

    batch: int | None = None  # videos sampled at once; None: as fits
    tile_batch: int | None = None  # most tiles per call of the network; None: as fits
    use_cache: bool = True  # False recomputes all context at every step: slow, for comparison
    offload: bool = False  # keep the context cache in host memory
    precision: str = "tf32"  # of the network on a GPU; canvas, solver and weights are always float32
    calls: str = CALLS[0]  # exact: only numbers of tiles per call that change no bit; fastest: as many as fit


@dataclass(frozen=True, kw_only=True)
class FolderRequest:
    """How samples are written to a folder."""

    format: str = "mp4"  # "mp4", or "npy" for exact uint8 arrays [T, H, W, 3]
    crf: int = DEFAULT_CRF  # H.264 quality of mp4 files; 0 is best
    save_levels: bool = False  # every level of each sample: OUT/level0, OUT/level1, ...
    sheet: bool = False  # also contact sheets next to the folder
    command: str | None = None  # what made the samples, for their manifest
