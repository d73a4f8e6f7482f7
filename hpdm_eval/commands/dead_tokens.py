"""`hpdm-eval dead-tokens`: broken blocks on the lattice of a model's tokens."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from hpdm.support.console import OutputFolder
from hpdm.support.files import atomic_file
from hpdm.support.progress import note
from hpdm_eval.commands.options import take_protocol
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.pixels import aligned, measure_clips, pixel_options, pixel_record, show_record
from hpdm_eval.metrics.dead_tokens import (
    FALSE_POSITIVES,
    THRESHOLDS,
    DeadTokens,
    cluster_rate,
    find_dead_tokens,
    rate_interval,
)
from hpdm_eval.metrics.seams import parse_patch
from hpdm_eval.records.record import Record

WORST = 10
MILLION = 1e6
MOST_POSITIONS = 100


@click.command(cls=RecordedCommand)
@click.option(
    "--samples",
    required=True,
    type=click.Path(),
    metavar="DIR|FILE",
    help="Clips to judge: videos, folders of frames, arrays, or a zip of them.",
)
@click.option(
    "--token", default="1x4x4", show_default=True, metavar="TxHxW", help="Samples of the video that one token makes."
)
@click.option("--plots", type=OutputFolder(), metavar="DIR", help="Save a heat map, dead-tokens.png, here.")
@pixel_options
def dead_tokens(samples, token, plots, **options):
    """How many tokens of the samples are broken: blocks that stand out from all sides, exactly on the token lattice.

    The value is dead tokens per million. In real video about two in a million look like one; the rate on the lattice
    moved by half a token, printed beside it, says what these clips hold by nature. The interval holds for rare tokens
    and few clips too: of n clips without any, its upper end is that of 3.7 clips with a cluster of them.
    """
    counted = count_dead_tokens(samples, take_protocol(options), parse_patch(token), options)
    if plots:
        path = Path(plots) / "dead-tokens.png"
        with atomic_file(path) as file:
            _map(counted).savefig(file, dpi=120, format="png")
        note(f"plot: {path}", options["quiet"])
    (figures,) = counted.record.details
    show_record(
        counted.record,
        options,
        [
            "",
            *aligned(("figure", ""), [(key.replace("_", " "), _short(value)) for key, value in figures.items()]),
            *_worst_lines(counted.record.extra["worst"]),
        ],
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Counted:
    """Dead tokens of a set of clips."""

    record: Record
    clips: list[DeadTokens]
    sizes: list[tuple[int, int]]  # rows and columns of each clip

    @property
    def rates(self):
        """Dead tokens per million of each clip: float64 [clips]."""
        return MILLION * np.array([clip.rate for clip in self.clips])


def count_dead_tokens(samples, protocol, token, options) -> Counted:
    """Read the clips of `samples` and count; token: (frames, rows, columns), options: those of `pixel_options`."""
    started = time.time()

    def measure(clip):
        moved = find_dead_tokens(clip.video, token, clip.name, moved=True)
        return find_dead_tokens(clip.video, token, clip.name), len(moved.positions), moved.tokens, clip.video.shape[1:3]

    measured, summary = measure_clips(samples, protocol, options, "samples", measure)
    counted = [entry[0] for entry in measured]
    rates = MILLION * np.array([clip.rate for clip in counted])
    interval = rate_interval(rates, MILLION * cluster_rate(np.mean([clip.tokens for clip in counted])))
    moved = sum(entry[2] for entry in measured)
    figures = {
        "token": "x".join(map(str, token)),
        "clips": len(counted),
        "tokens": sum(clip.tokens for clip in counted),
        "dead": sum(len(clip.positions) for clip in counted),
        "per_million": float(rates.mean()),
        "dead_per_video": float(np.mean([len(clip.positions) for clip in counted])),
        "clips_with_dead": sum(len(clip.positions) > 0 for clip in counted),
        "tone": sum(clip.kinds.count("tone") for clip in counted),
        "texture": sum(clip.kinds.count("texture") for clip in counted),
        "expected_by_chance": FALSE_POSITIVES * sum(clip.tokens for clip in counted),
        "moved_lattice_per_million": MILLION * sum(e[1] for e in measured) / moved if moved else None,
    }
    worst = [
        {"name": clip.name, "dead": len(clip.positions), "per_million": MILLION * clip.rate}
        for clip in sorted(counted, key=lambda clip: -clip.rate)
        if len(clip.positions)
    ][:WORST]
    record = pixel_record(
        "dead-tokens",
        protocol,
        {"token": list(token), "thresholds": THRESHOLDS, "false_positives": FALSE_POSITIVES},
        started=started,
        seed=options["seed"],
        value=figures["per_million"],
        ci95=interval,
        unit="per million tokens",
        higher_is_better=False,
        num_samples=summary["clips"],
        samples=summary,
        details=(figures,),
        extra={"worst": worst, "positions": _positions(counted, token)},
    )
    return Counted(record=record, clips=counted, sizes=[entry[3] for entry in measured])


def _positions(found, size):
    """The strongest of all clips: {"name", "frame", "row", "column", "kind", "score"}, in frames and pixels."""
    entries = [
        {
            "name": clip.name,
            **dict(zip(("frame", "row", "column"), (position * size).tolist())),
            "kind": kind,
            "score": round(float(score), 3),
        }
        for clip in found
        for position, kind, score in zip(clip.positions, clip.kinds, clip.scores)
    ]
    return sorted(entries, key=lambda entry: -entry["score"])[:MOST_POSITIONS]


def _worst_lines(worst):
    if not worst:
        return []
    return [
        "",
        "clips with the most:",
        *aligned(("name", "dead", "per million"), [(e["name"], e["dead"], f"{e['per_million']:.1f}") for e in worst]),
    ]


def _short(value):
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else value


def _map(counted):
    """Count of dead tokens at each place of the frame, over the clips of the most frequent size."""
    from matplotlib.figure import Figure  # takes a second to import

    (height, width), count = Counter(counted.sizes).most_common(1)[0]
    _, rows, columns = counted.record.extra["settings"]["token"]
    places = np.zeros((height // rows, width // columns))
    for clip, size in zip(counted.clips, counted.sizes):
        if size == (height, width):
            np.add.at(places, tuple(clip.positions[:, 1:].T), 1)
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    panel = figure.subplots()
    image = panel.imshow(places, extent=(0, width, height, 0), cmap="magma", interpolation="nearest")
    panel.set_title(f"dead tokens of {count} clips of {height}x{width}", fontsize=9)
    figure.colorbar(image, ax=panel, label="count")
    return figure
