"""From a checkpoint's configuration and a `SampleRequest` to the settings that samples are made with."""

import dataclasses
import json
from typing import Any

from hpdm.config import Config, override_config
from hpdm.config.sampling import SAMPLERS, SamplingConfig, named_sampler
from hpdm.diffusion import DiffusionConfig
from hpdm.methods import Method
from hpdm.sampling.request import CALLS, NOISE_RANGE, PRECISIONS, SampleRequest
from hpdm.sampling.steps import plan_level
from hpdm.support.errors import InputError


def apply_request(config: Config, request: SampleRequest) -> tuple[SamplingConfig, DiffusionConfig]:
    """The checkpoint's settings with those of a request: a named sampler, then overrides by key, then its own fields.

    Raises InputError for names and values that are not known, or contradict each other.
    """
    for text in request.overrides:
        if not text.startswith("sampling."):
            raise InputError(f"--set {text}: sampling changes settings of sampling alone: sampling.KEY=VALUE")
    _choose("--sampler", request.sampler, (None, *SAMPLERS))
    _choose("--precision", request.precision, PRECISIONS)
    _choose("--calls", request.calls, CALLS)
    named = named_sampler(request.sampler, config.sampling) if request.sampler else {}
    config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, **named))
    config = override_config(config, request.overrides)
    own = [f"sampling.{key}={json.dumps(_listed(value))}" for key, value in request.settings.items()]
    sampling = override_config(config, own).sampling
    ends = {name: getattr(request, name) for name in NOISE_RANGE}
    diffusion = dataclasses.replace(
        config.diffusion, **{key: value for key, value in ends.items() if value is not None}
    )
    diffusion.check_levels(config.pyramid.levels)
    return sampling, diffusion


def _choose(option: str, value: object, known: tuple) -> None:
    if value not in known:
        raise InputError(f"{option} {value}: choose {', '.join(str(name) for name in known if name is not None)}")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def check_levels(config: Config, sampling: SamplingConfig, levels: int | None) -> int:
    """How many levels to sample: `levels`, or all; raises InputError for more than there are or have steps."""
    most = config.pyramid.levels
    if levels is not None and not 1 <= levels <= most:
        raise InputError(f"--levels {levels}: this model has {most} levels")
    levels = levels or most
    sampling.level_steps(levels)
    return levels


def fit_canvas(
    method: Method, sampling: SamplingConfig, levels: int, size: tuple[int, ...] | None, beyond_training: bool
) -> SamplingConfig:
    """The sampling settings with a canvas for videos of `size`, (frames, rows, columns), or the trained one for None.

    Raises InputError for a size that the model does not make, or makes only with `beyond_training`.
    """
    if size is None:
        return sampling
    trained = method.resolution(levels - 1)
    if tuple(size) == trained:
        return dataclasses.replace(sampling, canvas=(1, 1, 1))
    fits = len(size) == 3 and all(w >= t and w % t == 0 for w, t in zip(size, trained, strict=True))
    if not (fits and beyond_training):
        known = ", ".join("x".join(map(str, method.resolution(level))) for level in range(method.config.pyramid.levels))
        hint = (
            "--beyond-training makes it nevertheless"
            if fits
            else "--beyond-training allows whole multiples of that along each axis"
        )
        raise InputError(
            f"--size {','.join(map(str, size))}: with {levels} levels this model makes {'x'.join(map(str, trained))} "
            f"videos; it was trained for {known} (choose among these with --levels); {hint}"
        )
    frames, rows, columns = (w // t for w, t in zip(size, trained, strict=True))
    return dataclasses.replace(sampling, canvas=(frames, rows, columns))


def describe_plan(
    config: Config,
    diffusion: DiffusionConfig,
    sampling: SamplingConfig,
    resolutions: list[tuple[int, int, int]],
    blocks: int,
    num: int,
) -> str:
    """What a run would do, for people: steps, tiles and block evaluations."""
    lines = []
    for level, resolution in enumerate(resolutions):
        plan = plan_level(config.pyramid, diffusion, sampling, level)
        start = "the level below" if plan.from_parent else "noise"
        tiles = ", ".join(str(len(tiling)) for tiling in plan.tilings)
        lines.append(
            f"level {level}: {'x'.join(map(str, resolution))} from {start}, {plan.steps} steps, "
            f"{plan.evaluations} evaluations of {tiles} tiles{' in turn' * (len(plan.tilings) > 1)}"
        )
    return "\n".join([*lines, f"{blocks:,} block evaluations a video, {num * blocks:,} for {num}"])


def tiling(method: Method, level: int) -> dict:
    """What the manifest of a level says of its tiles: their size in pixels, and how many make up a trained video."""
    factors = method.config.pyramid.factors(level)  # the pyramid's own patch may be one of latents
    size = method.resolution(level)
    return {"patch": [n // factor for n, factor in zip(size, factors, strict=True)], "factors": factors}
