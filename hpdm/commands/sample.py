"""`hpdm-sample`: videos from a checkpoint. Heavy imports wait until it runs, so that --help is quick."""

from pathlib import Path
from typing import Any

import click

from hpdm.config.pyramid import BORDERS, OVERLAPS
from hpdm.config.sampling import SAMPLERS, SOLVERS, TILE_WEIGHTS
from hpdm.sampling.request import CALLS, FORMATS, PRECISIONS, FolderRequest, SampleRequest
from hpdm.support.console import NONE, Command, Numbers, OutputFolder, called_with, common_options, version_option
from hpdm.video.formats import DEFAULT_CRF


class Size(Numbers):
    """Frames, rows and columns, with commas or an x between them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value.replace("x", ",") if isinstance(value, str) else value, param, ctx)


SIGMAS = Numbers(float, "0.002 or 0.002,0.001,0.001", alone=True)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--checkpoint",
    required=True,
    metavar="RUN|FILE|nano|USER/NAME",
    help="A run's folder, a step's folder, a .safetensors file, the weights that ship with hpdm, or an id on the "
    "Hugging Face hub (USER/NAME or USER/NAME@REVISION).",
)
@click.option("--num", type=click.IntRange(min=1), required=True, help="Videos in total in the folder.")
@click.option("--out", type=OutputFolder(path_type=Path), required=True, help="Folder for the samples.")
@click.option(
    "--classes",
    metavar="0,3,NAME|all|none",
    help="Sample i gets the i-th of these in turn, by number or name; none samples without class or text.  "
    "[default: the classes that were trained]",
)
@click.option(
    "--prompt",
    "texts",
    multiple=True,
    metavar="TEXT",
    help="Prompt for a text-to-video model; sample i gets the i-th of several in turn.",
)
@click.option(
    "--prompts",
    metavar="FILE|ucf101",
    help="Prompts from a file, one a line or YAML with frequencies, or those for the classes of UCF-101.",
)
@click.option(
    "--text-encoder",
    metavar="FOLDER|ID",
    help="Folder or hub id of the model's text encoder. [default: as the checkpoint names it]",
)
@click.option(
    "--sampler",
    type=click.Choice(list(SAMPLERS)),
    help="Solver, tilings, start and weights below at once: the paper's, or one for a fifth of its work; with them "
    "the published steps, where the checkpoint's are for another solver. [default: the checkpoint's]",
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
    "--solver",
    type=click.Choice(SOLVERS),
    help="Of the levels behind --heun-levels: Euler's, or one of second order that needs fewer steps.",
)
@click.option(
    "--start-noise",
    type=Numbers(float, "1, 2,1 or none", alone=True, none=True),
    metavar="S|S,S,..|none",
    help="Start finer levels from the one below with noise of S times the signal, one number or one for each "
    "level from 1 on; none: from pure noise.",
)
@click.option(
    "--steps",
    type=Numbers(int, "128,64,32"),
    metavar="128,64,32",
    help="Steps per level, coarse to fine. [default: the checkpoint's]",
)
@click.option(
    "--levels", type=click.IntRange(min=1), help="Stop after this many levels, at their resolution. [default: all]"
)
@click.option(
    "--size",
    type=Size(int, "64,256,256"),
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
@click.option("--s-churn", "S_churn", type=float, help="Noise added over the steps of those levels.")
@click.option("--s-min", "S_min", type=float, help="Lowest noise level at which noise is added.")
@click.option("--s-max", "S_max", type=float, help="Highest noise level at which noise is added.")
@click.option("--s-noise", "S_noise", type=float, help="Standard deviation of added noise.")
@click.option(
    "--sigma-min", type=SIGMAS, metavar="S|S,S,..", help="Noise level of the last step; one number, or one per level."
)
@click.option(
    "--sigma-max", type=SIGMAS, metavar="S|S,S,..", help="Noise level of the first step; one number, or one per level."
)
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
@click.option("--dry-run", is_flag=True, help="Print the plan and its cost, then stop.")
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
    help="Frames per second of mp4 files; models that read a frame rate are conditioned on it.",
)
@click.option("--crf", type=click.IntRange(0, 51), default=DEFAULT_CRF, help="H.264 quality; 0 is best.")
@click.option(
    "--save-levels",
    is_flag=True,
    help="Write every level of each sample: OUT/level0, OUT/level1, ... instead of OUT itself.",
)
@click.option(
    "--sheet",
    is_flag=True,
    help="Also write contact sheets next to the folder: OUT-sheet.mp4/.png and OUT-pyramid.mp4/.png.",
)
@version_option
@common_options
def sample(
    checkpoint: str,
    out: Path,
    text_encoder: str | None,
    no_cache: bool,
    overrides: tuple[str, ...],
    dry_run: bool,
    raw_weights: bool,
    file_format: str,
    crf: int,
    save_levels: bool,
    sheet: bool,
    device: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Sample videos from a checkpoint, level by level and tile by tile.

    Writes OUT/<index>_c<class>.mp4 (or .npy) and OUT/samples.json; for texts the class is the number of the prompt.
    Sample i depends on the seed, i, its class or text and the settings, not on batch sizes or the number of processes
    (but for its last bits with --calls fastest).
    The same command again continues where it stopped. Several GPUs share the videos out among themselves:

        torchrun --nproc-per-node 8 -m hpdm.sampling -- --checkpoint RUN --num 2048 --out DIR
    """
    request = _request(options, text_encoder=text_encoder, use_cache=not no_cache, overrides=overrides)

    from hpdm.checkpoint.load import load_checkpoint
    from hpdm.sampling.folder import sample_into
    from hpdm.sampling.sampler import Sampler
    from hpdm.support.environment import choose_device, processes_here

    device, process = choose_device(device), processes_here()
    quiet = quiet or process.rank > 0
    sampler = Sampler(load_checkpoint(checkpoint, raw_weights), request, device=device, quiet=quiet)
    if dry_run:
        click.echo(sampler.describe())
        return
    to_write = FolderRequest(
        format=file_format, crf=crf, save_levels=save_levels, sheet=sheet, command=called_with("hpdm-sample")
    )
    sample_into(sampler, out, to_write, process=process, quiet=quiet)


def _request(options: dict[str, Any], **more: Any) -> SampleRequest:
    """The request of options by name: fields of its own, and of `SamplingConfig`; absent ones are the checkpoint's."""
    given = {key: value for key, value in options.items() if value is not None}
    own = {key: given.pop(key) for key in SampleRequest.__dataclass_fields__ if key in given}
    if given.get("start_noise") == NONE:
        given["start_noise"] = None
    return SampleRequest(settings=given, **own, **more)


if __name__ == "__main__":
    sample()
