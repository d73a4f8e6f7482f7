"""Settings of tiled sampling that decide what a sample looks like; how fast it is made is the sampler's business."""

from dataclasses import dataclass
from typing import Any

from hpdm.config.diffusion import SamplerConfig
from hpdm.config.pyramid import AXES, BORDERS, OVERLAPS
from hpdm.support.errors import InputError

TILE_WEIGHTS = ("uniform", "feathered")
SOLVERS = ("euler", "multistep")

# Ways to sample that have a name: everything else is the checkpoint's. reports/sampling.md measures what each costs.
SAMPLERS: dict[str, dict[str, Any]] = {
    # Section 4.4 of the paper: all overlapping tiles at every step, every level from pure noise.
    "paper": {
        "solver": "euler",
        "tilings": 1,
        "tiling_borders": "covered",
        "averaged_steps": 0,
        "start_noise": None,
        "tile_weights": "uniform",
    },
    # A fifth of its block evaluations.
    "multistep": {
        "solver": "multistep",
        "tilings": 1,
        "tiling_borders": "covered",
        "averaged_steps": 0,
        "start_noise": 10.0,
        "tile_weights": "feathered",
    },
}
# Steps of each level of the published sizes, by solver; levels beyond take the last number.
STEPS = {"euler": (128, 64, 32), "multistep": (64, 14, 7)}
_PAPER = SAMPLERS["paper"]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(SamplerConfig):
    """Tiles, steps and guidance; the inherited fields are the stochasticity of the coarse levels' solver."""

    # Steps of each level, coarse to fine; levels beyond those sampled are ignored.
    steps: tuple[int, ...] = STEPS["euler"]
    # Axes along which neighbouring tiles overlap by half a patch: none, w, h, hw, f, fw, fh or fhw.
    overlap: str = "hw"
    # The coarsest levels that EDM's stochastic second-order solver samples; the others get `solver`.
    heun_levels: int = 1
    # euler, as published, or multistep, of second order for the same evaluations: so it needs fewer steps.
    solver: str = _PAPER["solver"]
    # Noise level, as `diffusion.noise` states it, at which finished levels enter as context; smaller ones were hardly
    # seen in training.
    sigma_context: float = 0.05
    # Classifier-free guidance: 1 is off and costs nothing, anything else doubles the work.
    guidance: float = 1.0
    # Oscillating guidance: every second step takes this scale instead, the first of them behind `guidance_hold` steps.
    guidance_low: float | None = None
    guidance_hold: int = 0
    # Dynamic thresholding: percentile of an estimate's absolute values that becomes its limit; 0 is off.
    dynamic_threshold: float = 0.0
    # How many times the trained size, (frames, rows, columns): windows of level 0 then overlap as others do.
    canvas: tuple[int, int, int] = (1, 1, 1)
    # 1: every step averages all overlapping tiles. More: each step takes one of this many tilings in turn, whose tiles
    # touch, shifted by half a patch along the axes of `overlap`; there are at most 2 to the number of those axes.
    tilings: int = _PAPER["tilings"]
    # What a shifted tiling does half a patch from the video's border: covered (by a tile more at either end) or kept
    # (the estimate of an earlier step is used again).
    tiling_borders: str = _PAPER["tiling_borders"]
    # The last steps of each level that average all overlapping tiles although `tilings` is more than 1.
    averaged_steps: int = _PAPER["averaged_steps"]
    # Levels above 0 start from the finished level below, enlarged, with noise of this ratio to the signal instead of
    # pure noise at sigma_max; the steps above it are left out. null: pure noise, as on levels with a lower sigma_max.
    # One number for all of them, or one for each from level 1 on.
    start_noise: float | tuple[float, ...] | None = _PAPER["start_noise"]
    # What the estimates of overlapping tiles count: uniform (all alike) or feathered (less towards a tile's border).
    tile_weights: str = _PAPER["tile_weights"]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.steps or min(self.steps) < 1:
            raise InputError(f"sampling.steps must be whole numbers of at least 1, one per level; got {self.steps}")
        if self.overlap not in OVERLAPS:
            raise InputError(f"sampling.overlap must be one of {', '.join(OVERLAPS)}; got {self.overlap!r}")
        if self.guidance_hold < 0 or not 0 <= self.dynamic_threshold <= 100:
            raise InputError("sampling needs guidance_hold >= 0 and a percentile as dynamic_threshold, 0 to 100")
        if min(self.canvas) < 1:
            raise InputError(f"sampling.canvas must be three whole numbers of at least 1; got {self.canvas}")
        overlapped = "" if self.overlap == "none" else self.overlap
        apart = [axis for axis, times in zip(AXES, self.canvas) if times > 1 and axis not in overlapped]
        if apart:
            # Windows of level 0 that only touch would be videos of their own.
            raise InputError(
                f"a video of {'x'.join(map(str, self.canvas))} times the trained size needs overlapping tiles along "
                f"{', '.join(apart)}; overlap is {self.overlap!r}"
            )
        if self.heun_levels < 0 or self.sigma_context <= 0:
            raise InputError("sampling needs heun_levels >= 0 and sigma_context > 0")
        if self.tilings < 1 or self.averaged_steps < 0:
            raise InputError("sampling needs tilings >= 1 and averaged_steps >= 0")
        if isinstance(self.start_noise, list):
            object.__setattr__(self, "start_noise", tuple(self.start_noise))
        starts = self.start_noise if isinstance(self.start_noise, tuple) else (self.start_noise,)
        if not starts or any(start is not None and start <= 0 for start in starts):
            raise InputError(f"sampling.start_noise must be above 0, or null for pure noise; got {self.start_noise}")
        for name, known in (("tiling_borders", BORDERS), ("tile_weights", TILE_WEIGHTS), ("solver", SOLVERS)):
            if getattr(self, name) not in known:
                raise InputError(f"sampling.{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")

    @property
    def guided(self) -> bool:
        """Whether estimates without condition are needed."""
        return self.guidance != 1 or self.guidance_low not in (None, 1)

    def guidance_at(self, step: int) -> float:
        """Guidance scale of step 0, 1, ... of a level (Imagen Video, arXiv 2210.02303, section 2.7)."""
        behind = step - self.guidance_hold
        if self.guidance_low is None or behind < 0 or behind % 2:
            return self.guidance
        return self.guidance_low

    def start_of(self, level: int) -> float | None:
        """Noise over signal that a level starts with from the level below; None where it starts from noise alone.

        Raises InputError where fewer are configured than levels are sampled.
        """
        if level == 0:
            return None
        if not isinstance(self.start_noise, tuple):
            return self.start_noise
        if len(self.start_noise) < level:
            raise InputError(
                f"sampling.start_noise has {len(self.start_noise)} numbers; level {level} needs {level}, "
                "one for each level from 1 on"
            )
        return self.start_noise[level - 1]

    def level_steps(self, levels: int) -> tuple[int, ...]:
        """Steps of the `levels` coarsest levels; raises InputError where fewer are configured."""
        if len(self.steps) < levels:
            raise InputError(f"{levels} levels need {levels} numbers of steps; got {','.join(map(str, self.steps))}")
        return self.steps[:levels]


def named_sampler(name: str, sampling: SamplingConfig) -> dict[str, Any]:
    """The fields that the sampler `name` of SAMPLERS sets in `sampling`.

    Steps are among them where those of `sampling` are for another solver: then they are the published sizes'.

    >>> named_sampler("paper", SamplingConfig(solver="multistep", steps=(5, 4, 3)))["steps"]
    (128, 64, 32)
    >>> "steps" in named_sampler("paper", SamplingConfig(steps=(5, 4, 3)))
    False
    """
    settings: dict[str, Any] = dict(SAMPLERS[name])
    if settings["solver"] != sampling.solver:
        published = STEPS[settings["solver"]]
        settings["steps"] = tuple(published[min(level, len(published) - 1)] for level in range(len(sampling.steps)))
    return settings
