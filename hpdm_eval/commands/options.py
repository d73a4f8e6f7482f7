"""Options that the metric commands share, and their translation into a protocol and into arguments of `open_clips`.

A command takes them as keywords, and makes an `Evaluation` of them; what is left in `options` is its own:

    @click.command(cls=RecordedCommand)
    @judging_options()
    def fvd(**options):
        evaluation = take_evaluation(options)

Nothing here imports torch, so that `--help` and typing mistakes are answered at once.
"""

import re
from collections.abc import Callable, MutableMapping
from dataclasses import fields
from typing import Any

import click

from hpdm.support.console import OutputFolder, common_options
from hpdm.support.hub_file import is_hub_file
from hpdm_eval.backbones.names import KNOWN, SHORT_NAMES
from hpdm_eval.evaluation.settings import SHARDS, Evaluation
from hpdm_eval.protocols import CHOICES, DEFAULT, Protocol, for_both_roles, load_protocol

SAMPLES = "Clips to judge: videos, folders of frames, arrays, a zip or tar of them, or a .txt list of files."

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]


class _Number(click.ParamType):
    """A number, or a word that stands for null."""

    def __init__(self, word, kind=int):
        self.name, self._word, self._kind = f"number|{word}", word, kind

    def convert(self, value, parameter, context):
        if value == self._word:
            return "null"
        try:
            return self._kind(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor {self._word!r}", parameter, context)


class _Resolution(click.ParamType):
    name = "size|native"

    def convert(self, value, parameter, context):
        if value == "native":
            return "null"
        match = re.fullmatch("([0-9]+)(?:[xX]([0-9]+))?", value)
        if not match:
            self.fail(f"{value!r}: write 256, or height x width as in 144x256, or native", parameter, context)
        return int(match[1]), int(match[2] or match[1])


def _choice(key):
    return click.Choice(CHOICES[key])


# option, field of Protocol, type, help; None as the type makes an on/off pair
_OVERRIDES = (
    ("--num-samples", "num_samples", _Number("all"), "Generated clips to use."),
    ("--num-reference", "num_reference", _Number("all"), "Reference clips to use."),
    ("--frames", "frames", _Number("all"), "Frames per clip."),
    ("--resolution", "resolution", _Resolution(), "Size of a clip in pixels: 256, or height x width."),
    ("--start", "start", _choice("start"), "Where clips start, of samples and reference alike."),
    ("--stride", "stride", int, "Take every so many frames, of samples and reference alike."),
    ("--fps", "fps", _Number("native", float), "Resample to this frame rate, samples and reference alike."),
    ("--samples-frames", "samples_frames", _choice("samples_frames"), "Which frames of generated clips, over --start."),
    ("--samples-stride", "samples_stride", int, "Stride in generated clips, over --stride."),
    ("--samples-fps", "samples_fps", _Number("native", float), "Frame rate of generated clips, over --fps."),
    ("--clips-per-video", "clips_per_video", int, "Clips of one video, of samples and reference alike."),
    ("--samples-clips-per-video", "samples_clips_per_video", int, "The same of samples, over --clips-per-video."),
    ("--short", "short", _choice("short"), "What happens to videos with too few frames."),
    ("--crop", "crop", _choice("crop"), "Crop before resizing."),
    ("--resize", "resize", _choice("resize"), "Method of resizing."),
    ("--antialias", "antialias", None, "Whether shrinking widens the filter."),
    ("--range", "value_range", _choice("value_range"), "Range of float arrays."),
    (
        "--selection",
        "selection",
        _choice("selection"),
        "Which reference clips are taken where there are more: class-balanced or shuffled draw at random, sorted takes "
        "the first by name.",
    ),
    ("--samples-selection", "samples_selection", _choice("samples_selection"), "The same for generated clips."),
    ("--split", "split", str, "Official list that the reference is, such as ucf101-train-01, or none."),
    (
        "--numerics",
        "numerics",
        _choice("numerics"),
        "legacy: the rounding of the published code; exact: double precision.",
    ),
)


def protocol_options(default: str = DEFAULT) -> Decorator:
    """Add `--protocol` and an option for every setting that a command line may override."""

    def decorate(function):
        for flag, key, kind, text in reversed(_OVERRIDES):
            names = (f"{flag}/--no-{flag[2:]}",) if kind is None else (flag,)
            function = click.option(*names, key, type=kind, default=None, help=text + " [protocol's]")(function)
        return click.option(
            "--protocol",
            default=default,
            show_default=True,
            metavar="NAME|FILE.yaml",
            help="How clips are cut and compared; `hpdm-eval protocols` lists them.",
        )(function)

    return decorate


def reading_options(function: Function, reference: bool = True) -> Function:
    """Add the options of `open_clips` that are no part of a protocol."""
    for option in (
        click.option(
            "--limit",
            type=click.IntRange(min=1),
            metavar="N",
            help="Look at N clips of either set at most: a quick look, which the record says it is.",
        ),
        click.option(
            "--split-lists",
            type=click.Path(exists=True, file_okay=False),
            metavar="DIR",
            help="UCF-101's folder of official lists (ucfTrainTestlist).",
        ),
        click.option("--workers", type=click.IntRange(min=0), help="Decoding processes. [one per core]"),
        click.option("--strict", is_flag=True, help="Stop at the first unusable file instead of listing it."),
        *([click.option("--reference-grid", metavar="RxC[+PAD]", help="As --grid, for the reference.")] * reference),
        click.option(
            "--match",
            metavar="PATTERN",
            help="Of the samples only files whose name fits, such as 'generated_*' or '*_noise.mp4'; with a / "
            "in the pattern, whose path below the folder does.",
        ),
        click.option(
            "--grid",
            metavar="RxC[+PAD]",
            help="Samples are contact sheets: rows x columns of clips, PAD pixels around and between.",
        ),
    ):
        function = option(function)
    return function


def backbone_options(function: Function, default: str | None = None) -> Function:
    """Add `--backbone`, `--weights`, `--c3d-mean`, `--unverified`, `--precision`, `--batch` and those of the cache.

    default: the backbone of a metric that has one of its own, in place of the protocol's.
    """
    for option in (
        click.option(
            "--verify-cache",
            is_flag=True,
            help="Decode all clips and compare them with what the cache remembers of their files, which it "
            "knows again by path, size and time.",
        ),
        click.option(
            "--cache/--no-cache",
            default=True,
            show_default=True,
            help="Keep features of clips, and use those of earlier runs, in the user's cache folder or "
            "$HPDM_EVAL_CACHE.",
        ),
        click.option(
            "--batch",
            type=click.IntRange(min=1),
            default=8,
            show_default=True,
            help="Clips in memory at a time; on a GPU also per forward pass, which moves last digits.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["fp32", "bf16"]),
            default="fp32",
            show_default=True,
            help="Arithmetic of the backbone.",
        ),
        click.option("--unverified", is_flag=True, help="Accept weights whose checksum is not known; records say so."),
        click.option(
            "--c3d-mean",
            type=FileOrAddress(exists=True, dir_okay=False),
            metavar="FILE.npz",
            help="Mean video that c3d subtracts; kept and pinned in the cache at first use.",
        ),
        click.option(
            "--weights",
            type=FileOrAddress(exists=True, dir_okay=False),
            metavar="FILE",
            help="Weights file, in place of the cached one; also hf://OWNER/NAME/FILE.",
        ),
        click.option(
            "--backbone",
            metavar="NAME",
            default=default,
            show_default=default is not None,
            help=f"Network that sees the clips: {', '.join(KNOWN)}." + " [protocol's]" * (default is None),
        ),
    ):
        function = option(function)
    return function


def metric_options(default: str = DEFAULT, backbone: str | None = None, reference: bool = True) -> Decorator:
    """All of the above."""

    def decorate(function):
        return protocol_options(default)(backbone_options(reading_options(function, reference), backbone))

    return decorate


def take_protocol(options: MutableMapping[str, Any]) -> Protocol:
    """Remove the protocol's options from `options` and return the resolved Protocol; overrides are noted in it.

    `--start`, `--stride` and `--fps` apply to samples as well, unless their own options say otherwise. `--backbone`, if
    it is among the options, stays there with its value filled in. Raises InputError.
    """
    name = options.pop("protocol")
    given = {key: options.pop(key) for _, key, _, _ in _OVERRIDES}
    short = {full: name for name, full in SHORT_NAMES.items()}  # as protocols write it, so that hashes agree
    given["backbone"] = short.get(options.get("backbone") or "", options.get("backbone"))
    overrides = for_both_roles({key: value for key, value in given.items() if value is not None})
    splits = options.pop("is_splits", None)
    if splits is not None and load_protocol(name).is_splits is not None:
        overrides["is_splits"] = splits
    if overrides.get("split") == "none":
        overrides["split"] = None
    protocol = load_protocol(name, **{key: None if value == "null" else value for key, value in overrides.items()})
    if "backbone" in options:
        options["backbone"] = protocol.backbone
    return protocol


def take_evaluation(options: MutableMapping[str, Any], **more: Any) -> Evaluation:
    """Remove from `options` what an `Evaluation` holds and return that; more: further fields of it. Raises InputError.

    The protocol's options are resolved, see `take_protocol`, and the network is the protocol's then.
    """
    protocol = take_protocol(options)
    options.pop("backbone", None)
    known = {item.name for item in fields(Evaluation)} - {"protocol", *more}
    return Evaluation(protocol=protocol, **{name: options.pop(name) for name in list(options) if name in known}, **more)


class FileOrAddress(click.Path):
    """A file, or the address of one on the hub."""

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        return value if is_hub_file(value) else super().convert(value, parameter, context)


class Sizes(click.ParamType):
    """Comma-separated numbers of samples, ascending and each once."""

    name = "N,N,..."

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        if isinstance(value, tuple):
            return value
        if not re.fullmatch("[0-9]+(,[0-9]+)*", value) or min(sizes := set(map(int, value.split(",")))) < 2:
            self.fail(f"{value!r}: write numbers of samples from 2 up, such as 256,512,2048", parameter, context)
        return tuple(sorted(sizes))


class Shard(click.ParamType):
    """I/N, as (number from 1 on, how many)."""

    name = "I/N"

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", value)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            self.fail(
                f"{value!r}: write the number of this job and how many there are, such as 1/8 ... 8/8",
                parameter,
                context,
            )
        return int(found[1]), int(found[2])


def shard_options(function: Function) -> Function:
    """Add `--shard` and `--shards`."""
    function = click.option(
        "--shards", type=OutputFolder(), metavar="DIR", help=f"Folder of the shards, for --shard. [{SHARDS}]"
    )(function)
    return click.option(
        "--shard",
        type=Shard(),
        metavar="I/N",
        help="Only extract the features of the I-th of N shares of the clips; `hpdm-eval merge` makes "
        "the record when all are there.",
    )(function)


def judging_options(
    protocol: str = DEFAULT,
    reference: bool = True,
    several: bool = False,
    backbone: str | None = None,
    shards: bool = False,
) -> Decorator:
    """Options of a metric command: --samples, --reference, how to read and compare them, where the result goes.

    several: --samples may be given more than once and comes as a tuple. backbone: default in place of the protocol's.
    shards: whether jobs can share the work.
    """

    def decorate(function):
        function = shard_options(function) if shards else function
        for option in (
            click.option(
                "--record", "folder", type=OutputFolder(), metavar="DIR", help="Also save the record in this folder."
            ),
            click.option("--json", "as_json", is_flag=True, help="Print the record as JSON in place of the table."),
            click.option(
                "--trained-with",
                multiple=True,
                metavar="NAME",
                help="A network, such as videomae, from whose features the samples' model learnt; also read "
                "from `trained_with` in their samples.json. Such a network is refused as their judge.",
            ),
            click.option("--allow-trained-judge", is_flag=True, help="Use it nevertheless; the record is marked."),
            click.option(
                "--group-by",
                default="auto",
                show_default=True,
                metavar="auto|none|folder|REGEX",
                help="Which clips come from one video, and are no independent draws in intervals: auto knows "
                "UCF-101's groups, REGEX is searched in the names.",
            ),
        ):
            function = option(function)
        function = metric_options(protocol, backbone, reference)(common_options(function))
        if reference:
            function = click.option(
                "--reference",
                required=True,
                type=click.Path(),
                metavar="DIR|STATS.npz",
                help="Real clips, or their statistics from `hpdm-eval stats`, also on the hub: hf://OWNER/NAME/FILE.npz.",
            )(function)
        return click.option(
            "--samples",
            required=True,
            type=click.Path(),
            metavar="DIR|FILE",
            multiple=several,
            help=SAMPLES + " Give it once per set." * several,
        )(function)

    return decorate


def pixel_options(function: Function) -> Function:
    """Add the options of metrics on pixels: protocol (default: clips as they are), reading, --json, --record."""
    for option in (
        click.option(
            "--record", "folder", type=OutputFolder(), metavar="DIR", help="Also save the record in this folder."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the record as JSON in place of the table."),
    ):
        function = option(function)
    return protocol_options("native")(reading_options(common_options(function)))


def pixel_set_options(reference: bool) -> Decorator:
    """Options of a metric on clips that a package registers: --samples, --reference and `pixel_options`."""

    def decorate(function: Function) -> Function:
        function = pixel_options(function)
        if reference:
            function = click.option(
                "--reference", type=click.Path(), metavar="DIR|FILE", help="Real clips, where the metric compares."
            )(function)
        return click.option("--samples", required=True, type=click.Path(), metavar="DIR|FILE", help=SAMPLES)(function)

    return decorate
