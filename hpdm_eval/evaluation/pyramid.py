"""Whether the levels of sampled pyramids agree with each other, as a record."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hpdm.support.errors import InputError
from hpdm.support.progress import progress
from hpdm_eval.clips.source import Clip
from hpdm_eval.evaluation.comparison import open_set
from hpdm_eval.evaluation.pixels import pixel_record
from hpdm_eval.evaluation.settings import Evaluation, Place
from hpdm_eval.metrics.pyramid_consistency import LevelError, band_names, compare_levels, psnr
from hpdm_eval.metrics.score_tests import mean_interval
from hpdm_eval.records.record import Record

MOST_DB = 100.0  # stands for the PSNR of equal clips, which is infinite
WORST = 10


def evaluate_pyramid(evaluation: Evaluation, options: Mapping[str, Any]) -> Record:
    """The Record of a folder of levels: the PSNR of the pair of levels that agrees least. options: "levels".

    Raises InputError where a level is missing, where two do not hold the same clips or where their sizes do not fit.
    """
    started = time.time()
    levels = options["levels"]
    errors, names, summaries = [], [], []
    for index, pair in enumerate(open_pairs(level_folders(evaluation.samples, levels), evaluation)):
        errors.append([])
        names.append([])
        for name, coarse, fine in pair.clips:
            try:
                errors[index].append(compare_levels(coarse, fine))
            except InputError as error:
                raise InputError(f"{name}, levels {index} and {index + 1}: {error}") from error
            names[index].append(name)
        summaries += pair.summaries() if index == 0 else pair.summaries()[1:]
    rng = np.random.default_rng(evaluation.seed)
    details, worst = [], []
    for index, (measured, clip_names) in enumerate(zip(errors, names)):
        details.append(_figures(index, measured, rng))
        order = np.argsort([error.psnr for error in measured])[:WORST]
        worst += [{"name": clip_names[k], "level": index + 1, "psnr": min(measured[k].psnr, MOST_DB)} for k in order]
    least = min(details, key=lambda entry: entry["psnr"])
    return pixel_record(
        "pyramid",
        evaluation,
        {"levels": levels},
        started=started,
        value=least["psnr"],
        ci95=least["ci95"] and tuple(least["ci95"]),
        unit="dB",
        higher_is_better=True,
        num_samples=summaries[-1]["clips"],
        samples=_of_all_levels(evaluation.samples, summaries),
        details=tuple(details),
        extra={"worst": sorted(worst, key=lambda entry: entry["psnr"])[:WORST]},
    )


def level_folders(samples: Place, levels: int) -> list[Path]:
    """Paths of level0 .. level<levels-1> under `samples`; raises InputError where one is missing."""
    folders = [Path(samples) / f"level{level}" for level in range(levels)]
    missing = [folder.name for folder in folders if not folder.is_dir()]
    if missing:
        raise InputError(
            f"{samples} lacks {', '.join(missing)}: it must hold one folder for each level, coarse to "
            "fine, with files of the same names"
        )
    return folders


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelPair:
    """Two neighbouring levels, to be read once."""

    clips: Iterator[tuple[str, np.ndarray, np.ndarray]]  # (name, coarse, fine), uint8 [T, H, W, 3]
    summaries: Callable[[], list[dict[str, Any]]]  # the records' entries of both, after reading


def open_pairs(folders: Sequence[Path], evaluation: Evaluation) -> list[LevelPair]:
    """The pairs of neighbouring levels, coarse to fine; reading one raises InputError where it holds other clips."""
    return [_open_pair(coarse, fine, evaluation) for coarse, fine in zip(folders, folders[1:])]


def _open_pair(coarse: Path, fine: Path, evaluation: Evaluation) -> LevelPair:
    sources = [open_set("samples", replace(evaluation, samples=folder)) for folder in (coarse, fine)]

    def unequal(where: str) -> InputError:
        rejected = [
            f"; {folder.name}/{entry['path']} was rejected: {entry['reason']}"
            for folder, source in zip((coarse, fine), sources)
            for entry in source.rejected
        ]
        return InputError(f"{coarse} and {fine} do not hold the same clips: {where}{''.join(rejected[:1])}")

    def clips() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        with progress(total=len(sources[1]), unit="clip", description=fine.name, quiet=evaluation.quiet) as bar:
            other = iter(sources[1])
            for clip in sources[0]:
                match = next(other, None)
                if match is None or _stem(match) != _stem(clip):
                    raise unequal(f"{clip.name} stands beside {match.name if match else 'nothing'}")
                yield clip.name, clip.pixels, match.pixels
                bar.update()
            if (extra := next(other, None)) is not None:
                raise unequal(f"{extra.name} has no partner")

    return LevelPair(clips=clips(), summaries=lambda: [source.summary() for source in sources])


def _of_all_levels(samples: Place, summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record's entry for the samples: one digest of all levels, and what was rejected on any."""
    digests = "".join(summary["sha256"] for summary in summaries)
    rejected = [
        {**entry, "path": f"level{level}/{entry['path']}"}
        for level, summary in enumerate(summaries)
        for entry in summary["rejected"]
    ]
    return {**summaries[-1], "path": str(samples), "sha256": sha256(digests.encode()).hexdigest(), "rejected": rejected}


def _stem(clip: Clip) -> tuple[str, Any]:
    """A clip's name without the suffix, with its number in an array."""
    return str(PurePosixPath(clip.file or clip.name).with_suffix("")), clip.number


def _figures(index: int, errors: Sequence[LevelError], rng: np.random.Generator) -> dict[str, Any]:
    values = np.array([min(error.psnr, MOST_DB) for error in errors])
    interval = mean_interval(values, rng)
    error_power = np.mean([error.error_power for error in errors], axis=0)
    signal_power = np.mean([error.signal_power for error in errors], axis=0)
    figures = {
        "level": index + 1,
        "coarse_level": index,
        "clips": len(errors),
        "psnr": float(values.mean()),
        "ci95": interval and list(interval),
        "psnr_of_mean_error": min(psnr(error_power.sum()), MOST_DB),
        "bias": float(np.mean([error.bias for error in errors])),
    }
    for name, error, signal in zip(band_names(), error_power, signal_power):
        figures[f"rmse {name}"] = float(np.sqrt(error))
        figures[f"error/signal {name}"] = float(error / signal) if signal > 0 else None
    return figures
