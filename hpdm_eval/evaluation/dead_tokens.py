"""Dead tokens of samples: broken blocks on the lattice of a model's tokens, counted into a record."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpdm_eval.clips.source import Clip
from hpdm_eval.evaluation.pixels import measure_clips, pixel_record
from hpdm_eval.evaluation.settings import Evaluation
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


@dataclass(frozen=True, kw_only=True, eq=False)
class CountedTokens:
    """Dead tokens of a set of clips."""

    record: Record
    clips: list[DeadTokens]
    sizes: list[tuple[int, int]]  # rows and columns of each clip

    @property
    def rates(self) -> np.ndarray:
        """Dead tokens per million of each clip: float64 [clips]."""
        return MILLION * np.array([clip.rate for clip in self.clips])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Measured:
    """One clip."""

    tokens: DeadTokens
    moved: DeadTokens  # on the lattice moved by half a token
    size: tuple[int, int]


def evaluate_dead_tokens(evaluation: Evaluation, options: Mapping[str, Any]) -> Record:
    """The Record of dead tokens. options: "token", "TxHxW" or three numbers: frames, rows and columns of a token."""
    return count_dead_tokens(evaluation, parse_patch(options["token"])).record


def count_dead_tokens(evaluation: Evaluation, token: tuple[int, int, int]) -> CountedTokens:
    """Read the samples and count; token: (frames, rows, columns) of the video that one makes. Raises InputError."""
    started = time.time()

    def measure(clip: Clip) -> _Measured:
        video = clip.pixels
        moved = find_dead_tokens(video, token, clip.name, moved=True)
        return _Measured(tokens=find_dead_tokens(video, token, clip.name), moved=moved, size=video.shape[1:3])

    measured, summary = measure_clips(evaluation, "samples", measure)
    counted = [entry.tokens for entry in measured]
    rates = MILLION * np.array([clip.rate for clip in counted])
    interval = rate_interval(rates, MILLION * cluster_rate(float(np.mean([clip.tokens for clip in counted]))))
    figures = _figures(measured, token, rates)
    worst = [
        {"name": clip.name, "dead": len(clip.positions), "per_million": MILLION * clip.rate}
        for clip in sorted(counted, key=lambda clip: -clip.rate)
        if len(clip.positions)
    ][:WORST]
    record = pixel_record(
        "dead-tokens",
        evaluation,
        {"token": list(token), "thresholds": THRESHOLDS, "false_positives": FALSE_POSITIVES},
        started=started,
        value=figures["per_million"],
        ci95=interval,
        unit="per million tokens",
        higher_is_better=False,
        num_samples=summary["clips"],
        samples=summary,
        details=(figures,),
        extra={"worst": worst, "positions": _positions(counted, token)},
    )
    return CountedTokens(record=record, clips=counted, sizes=[entry.size for entry in measured])


def _figures(measured: list[_Measured], token: Sequence[int], rates: np.ndarray) -> dict[str, Any]:
    counted, moved = [entry.tokens for entry in measured], [entry.moved for entry in measured]
    moved_tokens = sum(clip.tokens for clip in moved)
    return {
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
        "moved_lattice_per_million": MILLION * sum(len(clip.positions) for clip in moved) / moved_tokens
        if moved_tokens
        else None,
    }


def _positions(counted: list[DeadTokens], size: Sequence[int]) -> list[dict[str, Any]]:
    """The strongest of all clips: {"name", "frame", "row", "column", "kind", "score"}, in frames and pixels."""
    entries = [
        {
            "name": clip.name,
            **dict(zip(("frame", "row", "column"), (position * size).tolist())),
            "kind": kind,
            "score": round(float(score), 3),
        }
        for clip in counted
        for position, kind, score in zip(clip.positions, clip.kinds, clip.scores)
    ]
    return sorted(entries, key=lambda entry: -entry["score"])[:MOST_POSITIONS]
