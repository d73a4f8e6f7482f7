"""`hpdm-sample`: videos from a checkpoint."""

import dataclasses
import json
import os
import time
from contextlib import suppress
from pathlib import Path

import click

from hpdm.checkpoint.load import load_checkpoint
from hpdm.config import override_config
from hpdm.config.sampling import SAMPLERS, TILE_WEIGHTS
from hpdm.data.ranges import to_uint8
from hpdm.pyramid import BORDERS, OVERLAPS
from hpdm.sampling.calls import CALLS, call_rates, find_call_sizes, largest_calls, reference_size
from hpdm.sampling.memory import choose_batch, choose_tile_batch, estimate_memory, free_memory
from hpdm.sampling.precision import network_precision
from hpdm.sampling.prompts import AskedClasses, AskedTexts, Prompts, read_prompts
from hpdm.sampling.steps import count_block_evaluations, plan_level
from hpdm.sampling.writer import FORMATS, SamplesFolder
from hpdm.support.console import Command, OutputFolder, called_with, common_options
from hpdm.support.environment import choose_device, hardware, processes_here
from hpdm.support.errors import InputError, WriteError, going_on
from hpdm.support.lock import LOCK_FILE, hold
from hpdm.support.progress import note, progress
from hpdm.video.writer import DEFAULT_CRF

PRECISIONS = ("tf32", "fp32", "bf16", "fp16")


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--checkpoint",
    required=True,
    metavar="RUN|FILE|nano",
    help="A run's folder, a step's folder, a .safetensors file, or the weights that ship with hpdm.",
)
@click.option("--num", type=click.IntRange(min=1), required=True, help="How many videos the folder shall hold.")
@click.option("--out", type=OutputFolder(path_type=Path), required=True, help="Folder for the samples.")
@click.option(
    "--classes",
    metavar="0,3,NAME|all|none",
    help="Sample i gets the i-th of these in turn, by number or name; none samples without class or text.  "
    "[default: the classes that were trained]",
)
@click.option(
    "--prompt",
    "prompt",
    multiple=True,
    metavar="TEXT",
    help="What a text-to-video model shall show; sample i gets the i-th of several in turn.",
)
@click.option(
    "--prompts",
    metavar="FILE|ucf101",
    help="Prompts from a file, one a line or YAML with frequencies, or those for the classes of UCF-101.",
)
@click.option(
    "--text-encoder",
    metavar="FOLDER|ID",
    help="Where the model's text encoder lies. [default: as the checkpoint names it]",
)
@click.option(
    "--sampler",
    "named",
    type=click.Choice(list(SAMPLERS)),
    help="Tilings, start and weights below at once: the paper's, or fast ones, which leave more seams "
    "(reports/sampling.md).",
)
@click.option(
    "--overlap", type=click.Choice(OVERLAPS), help="Axes along which tiles overlap by half. [default: the checkpoint's]"
)
@click.option(
    "--tilings",
    type=click.IntRange(1, 8),
    metavar="N",
    help="Take one of N tilings of touching tiles in turn at each step; 1 averages all overlapping tiles.",
)
@click.option(
    "--tiling-borders",
    type=click.Choice(BORDERS),
    help="Where a shifted tiling ends before the video does: more tiles, or the estimate of an earlier step.",
)
@click.option(
    "--averaged-steps",
    type=click.IntRange(min=0),
    metavar="N",
    help="With several tilings, average all overlapping tiles in the last N steps of each level.",
)
@click.option("--tile-weights", type=click.Choice(TILE_WEIGHTS), help="What overlapping tiles count in an average.")
@click.option(
    "--start-noise",
    metavar="S|S,S,..|none",
    help="Start finer levels from the one below with noise of S times the signal, one number or one for each "
    "level from 1 on; none: from pure noise.",
)
@click.option("--steps", metavar="128,64,32", help="Steps per level, coarse to fine. [default: the checkpoint's]")
@click.option(
    "--levels", type=click.IntRange(min=1), help="Stop after this many levels, at their resolution. [default: all]"
)
@click.option(
    "--size",
    metavar="F,H,W",
    help="Size of the videos; another than the model was trained for needs --beyond-training.",
)
@click.option(
    "--beyond-training",
    is_flag=True,
    help="Allow a --size of whole multiples of the trained one: longer or larger videos than the model saw.",
)
@click.option("--guidance", type=float, help="Classifier-free guidance scale; 1 is off. [default: the checkpoint's]")
@click.option("--guidance-low", type=float, help="Scale of every second step: oscillating guidance. [default: off]")
@click.option("--guidance-hold", type=click.IntRange(min=0), help="Steps of a level before guidance oscillates.")
@click.option(
    "--dynamic-threshold",
    type=click.FloatRange(0, 100),
    help="Limit estimates to this percentile of their values, such as 99.5; 0 is off.",
)
@click.option(
    "--heun-levels", type=click.IntRange(min=0), help="Coarsest levels that get the stochastic second-order solver."
)
@click.option("--s-churn", type=float, help="Noise added anew over the steps of those levels.")
@click.option("--s-min", type=float, help="Lowest noise level at which noise is added.")
@click.option("--s-max", type=float, help="Highest noise level at which noise is added.")
@click.option("--s-noise", type=float, help="Standard deviation of added noise.")
@click.option("--sigma-min", metavar="S|S,S,..", help="Noise level of the last step; one number, or one per level.")
@click.option("--sigma-max", metavar="S|S,S,..", help="Noise level of the first step; one number, or one per level.")
@click.option("--rho", type=float, help="How steps spread over noise levels.")
@click.option("--sigma-context", type=float, help="Noise level at which finished levels enter finer ones.")
@click.option("--batch", type=click.IntRange(min=1), help="Videos made at once. [default: as fits]")
@click.option("--tile-batch", type=click.IntRange(min=1), help="Most tiles per call of the network. [default: as fits]")
@click.option("--no-cache", is_flag=True, help="Recompute all context at every step: slow, for comparison.")
@click.option("--offload", is_flag=True, help="Keep the context cache in host memory.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="tf32",
    help="Of the network on a GPU; canvas, solver and weights are always fp32.",
)
@click.option(
    "--calls",
    type=click.Choice(CALLS),
    default=CALLS[0],
    help="exact: only numbers of tiles per call that change no bit; fastest: as many as fit.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="sampling.KEY=VALUE",
    help="Change a setting of sampling by its name in the configuration; options above go first.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be made and what it takes, then stop.")
@click.option("--raw-weights", is_flag=True, help="The weights as trained, not their average.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(FORMATS),
    default="mp4",
    help="mp4, or exact uint8 arrays [T, H, W, 3].",
)
@click.option(
    "--fps",
    type=float,
    default=25,
    help="Frames per second of mp4 files, and what models that read a frame rate are told.",
)
@click.option("--crf", type=click.IntRange(0, 51), default=DEFAULT_CRF, help="H.264 quality; 0 is best.")
@click.option(
    "--save-levels",
    is_flag=True,
    help="Write every level of each sample: OUT/level0, OUT/level1, ... in place of OUT itself.",
)
@click.option(
    "--sheet",
    is_flag=True,
    help="Also write contact sheets beside the folder: OUT-sheet.mp4/.png and OUT-pyramid.mp4/.png.",
)
@common_options
def sample(
    checkpoint,
    num,
    out,
    classes,
    prompt,
    prompts,
    text_encoder,
    named,
    levels,
    size,
    beyond_training,
    batch,
    tile_batch,
    no_cache,
    offload,
    precision,
    calls,
    overrides,
    dry_run,
    raw_weights,
    file_format,
    fps,
    crf,
    save_levels,
    sheet,
    device,
    seed,
    quiet,
    **chosen,
):
    """Sample videos from a checkpoint, level by level and tile by tile.

    Writes OUT/<index>_c<class>.mp4 (or .npy) and OUT/samples.json; for texts the class is the number of the prompt.
    Sample i depends on the seed, i, its class or text and the settings, not on batch sizes or the number of processes
    (but for its last bits with --calls fastest).
    The same command again continues where it stopped. Several GPUs share the videos out among themselves:

        torchrun --nproc-per-node 8 -m hpdm.sampling -- --checkpoint RUN --num 2048 --out DIR
    """
    device = choose_device(device)
    process = processes_here()
    quiet = quiet or process.rank > 0
    loaded = load_checkpoint(checkpoint, raw_weights)
    network, method, config = loaded.network, loaded.method, loaded.config
    if not method.makes_videos:
        raise InputError(f"--checkpoint {checkpoint}: {config.method.name} makes no videos by itself")
    sampling, diffusion = _override(config, named, chosen, overrides)
    levels = _check_levels(config, sampling, levels)
    sampling = _fit_canvas(method, sampling, levels, size, beyond_training)
    if text_encoder:
        config = override_config(config, [f"text.encoder={json.dumps(text_encoder)}"])
    asked = _asked(config, classes, prompt, prompts, num, fps, device)
    network.to(device)  # only now: a text encoder was there before it
    settings = {
        "checkpoint": loaded.sha256,
        "seed": seed,
        **asked.settings,
        **dataclasses.asdict(sampling),
        "sigma_min": diffusion.sigma_min,
        "sigma_max": diffusion.sigma_max,
        "rho": diffusion.rho,
        **({"noise": diffusion.noise} if diffusion.noise != "absolute" else {}),
        "precision": precision if device.type == "cuda" else "fp32",
        "calls": calls,
        "format": file_format,
        **({"fps": fps, "crf": crf} if file_format == "mp4" else {}),
    }
    blocks = count_block_evaluations(
        config.network, config.pyramid, diffusion, sampling, levels, use_cache=not no_cache
    )
    about = {
        "checkpoint": loaded.describe(),
        "weights": "raw" if raw_weights else "ema",
        "block_evaluations_per_video": blocks,
        "hardware": hardware(device),
        "command": called_with("hpdm-sample"),
    }
    resolutions = [method.resolution(level, sampling.canvas) for level in range(levels)]
    if dry_run:
        click.echo(_describe(config, diffusion, sampling, resolutions, blocks, num))
        return
    name = LOCK_FILE + f"-{process.rank}" * (process.rank > 0)  # processes of one run share the folder
    click.get_current_context().with_resource(hold(out, name))
    folders = {
        level: SamplesFolder(
            out / f"level{level}" if save_levels else out,
            {**settings, "levels": level + 1, "steps": sampling.level_steps(level + 1)},
            {**about, "resolution": resolutions[level], **tiling(method, level)},
            fps=fps,
            crf=crf,
            names=asked.names,
        )
        for level in (range(levels) if save_levels else [levels - 1])
    }
    note(
        f"{loaded.file} at step {loaded.step}, {about['weights']} weights, "
        f"{'x'.join(map(str, resolutions[-1]))} videos",
        quiet,
    )
    if said := asked.describe():
        note(said, quiet)

    plan = {"levels": levels, "use_cache": not no_cache, "offload": offload}
    batch = min(batch or fitting_batch(network, sampling, plan, device), num)
    tile_batch = tile_batch or choose_tile_batch(
        network, sampling, batch=batch, device=device, at_least=_reference(network), **plan
    )
    _check_memory(network, sampling, plan, batch, tile_batch, device, quiet)
    with network_precision(precision, device):
        call_sizes = find_call_sizes(network, tile_batch, device)
        if calls == "fastest":
            call_sizes = _fastest(network, call_sizes, tile_batch, device, folders.values(), quiet)
        sampler = method.sampler(
            network, diffusion, sampling, device=device, call_sizes=call_sizes, use_cache=not no_cache, offload=offload
        )
        run = _Run(sampler, folders, asked, seed, levels)
        run.make(range(process.rank, num, process.world_size), batch, quiet)
        if sheet and process.rank == 0:
            _write_sheets(run, out, fps, quiet)
    done = len(run.finest.finished())
    note(
        f"{done} of {num} videos in {out}, {run.made} made now; "
        f"{sampler.evaluator.block_evaluations:,} block evaluations",
        quiet,
    )


class _Run:
    """Makes the samples that `folders`, by level, lack."""

    def __init__(self, sampler, folders, asked, seed, levels):
        self.sampler, self.folders, self.finest = sampler, folders, folders[levels - 1]
        self.asked, self.label, self.seed, self.levels = asked, asked.label, seed, levels
        self.made = 0

    def make(self, indices, batch, quiet):
        """Sample the missing ones of `indices`; whatever stops it, the folders are left valid."""
        missing = [
            index
            for index in indices
            if not all(folder.has(index, self.label(index)) for folder in self.folders.values())
        ]
        self._write_manifests()
        bar = progress(total=len(indices), initial=len(indices) - len(missing), unit="video", quiet=quiet)

        drawn = time.monotonic()

        def show(level, done, total):
            nonlocal drawn
            bar.set_postfix_str(f"level {level}, step {done}/{total}", refresh=False)
            if not quiet and time.monotonic() - drawn > bar.mininterval:  # a batch of large videos takes minutes
                bar.refresh()
                drawn = time.monotonic()

        self.sampler.on_step = show
        try:
            for first in range(0, len(missing), batch):
                chosen = missing[first : first + batch]
                videos = self.videos(chosen)
                clips = {level: to_clips(videos[level]) for level in self.folders}
                for number, index in enumerate(chosen):
                    for level, folder in self.folders.items():
                        folder.write(index, self.label(index), clips[level][number])
                    self.made += 1
                    bar.update()
        except WriteError as error:
            kept = f"{len(self.finest.finished())} videos are kept; {going_on(error.errno)}"
            raise WriteError(error.filename, error.errno, os.strerror(error.errno), kept) from error
        finally:
            bar.close()
            with suppress(WriteError):  # said already, or the videos say it by themselves
                self._write_manifests()

    def _write_manifests(self):
        for folder in self.folders.values():
            folder.write_manifest()

    def videos(self, indices):
        """All levels of the given samples, as `TiledSampler.sample` returns them."""
        told = self.asked.told([self.label(index) for index in indices])
        return self.sampler.sample(indices, told, self.seed, self.levels)


def to_clips(videos):
    """Float [B, C, T, H, W] in [-1, 1] → uint8 array [B, T, H, W, 3]."""
    return to_uint8(videos).permute(0, 2, 3, 4, 1).cpu().numpy()


def _fastest(network, exact, tile_batch, device, folders, quiet):
    """The largest calls; what exact ones would cost is said, and written into the manifests."""
    fastest = largest_calls(tile_batch)
    rates = call_rates(network, {"exact": exact, "fastest": fastest}, device)
    note(
        f"calls of up to {fastest.sizes[-1]} tiles, {rates['fastest']:.4g} tiles/s; exact ones, of up to "
        f"{exact.sizes[-1]}, {rates['exact']:.4g} tiles/s",
        quiet,
    )
    for folder in folders:
        folder.about["calls"] = {"sizes": fastest.sizes, "exact_sizes": exact.sizes, "tiles_per_second": rates}
    return fastest


def _describe(config, diffusion, sampling, resolutions, blocks, num):
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


def _override(config, named, chosen, overrides=()):
    """The checkpoint's sampling and diffusion settings with those given on the command line: a named sampler, then
    overrides by key, then options."""
    if elsewhere := [text for text in overrides if not text.startswith("sampling.")]:
        raise InputError(f"--set {elsewhere[0]}: hpdm-sample changes settings of sampling alone: sampling.KEY=VALUE")
    named = SAMPLERS[named] if named else {}
    config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, **named))
    config = override_config(config, overrides)
    given = {key: value for key, value in chosen.items() if value is not None}
    renamed = {"s_churn": "S_churn", "s_min": "S_min", "s_max": "S_max", "s_noise": "S_noise"}
    given = {renamed.get(key, key): value for key, value in given.items()}
    if "steps" in given:
        given["steps"] = _numbers(given["steps"], int, "--steps", "128,64,32")
    for name in ("sigma_min", "sigma_max"):
        if name in given:
            given[name] = _numbers(given[name], float, f"--{name.replace('_', '-')}", "0.002 or 0.002,0.001,0.001")
            given[name] = given[name] if len(given[name]) > 1 else given[name][0]
    if "start_noise" in given:
        alone = given["start_noise"] == "none"
        starts = None if alone else _numbers(given["start_noise"], float, "--start-noise", "1, 2,1 or none")
        given["start_noise"] = starts[0] if starts and len(starts) == 1 else starts
    of_diffusion = {key: given.pop(key) for key in ("sigma_min", "sigma_max", "rho") if key in given}
    diffusion = dataclasses.replace(config.diffusion, **of_diffusion)
    diffusion.check_levels(config.pyramid.levels)
    return dataclasses.replace(config.sampling, **given), diffusion


def _numbers(text, kind, option, example):
    try:
        return tuple(kind(number) for number in text.split(","))
    except ValueError as error:
        raise InputError(f"{option} takes numbers such as {example}; got {text!r}") from error


def _check_levels(config, sampling, levels):
    most = config.pyramid.levels
    if levels is not None and levels > most:
        raise InputError(f"--levels {levels}: this model has {most} levels")
    levels = levels or most
    sampling.level_steps(levels)
    return levels


def _fit_canvas(method, sampling, levels, size, beyond_training):
    """The sampling settings with a canvas for videos of `size`, "F,H,W" or None."""
    if size is None:
        return sampling
    trained = method.resolution(levels - 1)
    wanted = _numbers(size.replace("x", ","), int, "--size", "64,256,256")
    if wanted == trained:
        return dataclasses.replace(sampling, canvas=(1, 1, 1))
    fits = len(wanted) == 3 and all(w >= t and w % t == 0 for w, t in zip(wanted, trained))
    if not (fits and beyond_training):
        known = ", ".join("x".join(map(str, method.resolution(level))) for level in range(method.config.pyramid.levels))
        hint = (
            "--beyond-training makes it nevertheless"
            if fits
            else "--beyond-training allows whole multiples of that along each axis"
        )
        raise InputError(
            f"--size {size}: with {levels} levels this model makes {'x'.join(map(str, trained))} videos; it was "
            f"trained for {known} (choose among these with --levels); {hint}"
        )
    return dataclasses.replace(sampling, canvas=tuple(w // t for w, t in zip(wanted, trained)))


def tiling(method, level):
    """What the manifest of a level says of its tiles: their size in pixels, and how many make up a trained video."""
    factors = method.config.pyramid.factors(level)  # the pyramid's own patch may be one of latents
    return {"patch": [n // factor for n, factor in zip(method.resolution(level), factors)], "factors": factors}


def _asked(config, classes, prompt, prompts, num, fps, device):
    """What the samples are asked to show."""
    network = config.network
    if not network.text_width:
        if prompt or prompts:
            raise InputError("this model reads no text: choose with --classes")
        if not network.measures:
            trained_on = config.trained_on
            labels = _parse_classes(classes, network.num_classes, trained_on)
            return AskedClasses(labels or [0], trained_on.class_names)
    classes = classes or "all"
    if prompt and prompts:
        raise InputError("--prompt and --prompts exclude each other")
    if classes not in ("all", "none") or (classes == "none" and (prompt or prompts)):
        raise InputError(
            f"--classes {classes}: this model reads texts; give --prompt, --prompts, or --classes none alone"
        )
    if classes == "all" and network.text_width and not (prompt or prompts):
        raise InputError("this model reads texts: give --prompt TEXT or --prompts FILE, or --classes none for neither")
    chosen = read_prompts(prompts) if prompts else Prompts(texts=tuple(prompt))
    return AskedTexts(chosen, config, count=num, fps=fps, device=device)


def _parse_classes(text, num_classes, trained_on):
    if text is None:
        return list(trained_on.classes) or list(range(num_classes))
    if text == "all":
        return list(range(num_classes))
    if text == "none":
        return [num_classes]
    ids = {name: str(number) for number, name in enumerate(trained_on.class_names)}
    known = "0,3,7, names of classes, or all or none" if ids else "0,3,7, or all or none"
    labels = list(_numbers(",".join(ids.get(word, word) for word in text.split(",")), int, "--classes", known))
    if min(labels) < 0 or max(labels) >= num_classes:
        raise InputError(f"--classes {text}: this model has the classes 0 to {num_classes - 1}")
    return labels


def _reference(network):
    frames, rows, columns = network.token_grid
    return reference_size(frames * rows * columns)


def fitting_batch(network, sampling, plan, device):
    """Videos to make at once, see `choose_batch`."""
    return choose_batch(network, sampling, device=device, at_least=_reference(network), **plan)


def _check_memory(network, sampling, plan, batch, tile_batch, device, quiet):
    estimate = estimate_memory(network, sampling, batch=batch, tile_batch=tile_batch, **plan)
    free = free_memory(device)
    note(
        f"memory for {batch} videos at once, {tile_batch} tiles per call: about {estimate}; "
        f"{free / 2**30:.2f} GiB free",
        quiet,
    )
    advice = []
    if estimate.needed > free:
        advice += ["--batch 1"] * (batch > 1) + ["a smaller --tile-batch"] * (tile_batch > 1)
        advice += ["--offload"] * (estimate.cache > 0 and device.type == "cuda" and not plan["offload"])
        advice += ["less --overlap"] * (sampling.overlap != "none") + ["--no-cache"] * plan["use_cache"]
        advice += ["fewer --levels"]
    elif estimate.host > free_memory("cpu"):
        advice = ["a run without --offload", "--batch 1", "less --overlap"]
    if advice:
        raise InputError(
            f"sampling would not fit into memory: about {estimate} needed, {free / 2**30:.2f} GiB free; "
            f"what helps: {', '.join(advice)}"
        )


def _write_sheets(run, out, fps, quiet):
    from hpdm.sampling.sheet import write_pyramid, write_sheet  # matplotlib takes a second to import

    stem = out.parent / out.name
    written = write_sheet(f"{stem}-sheet", run.finest, fps=fps)
    written += write_pyramid(f"{stem}-pyramid", run.videos([0]), fps=fps)
    note("wrote " + ", ".join(map(str, written)), quiet)


if __name__ == "__main__":
    sample()
