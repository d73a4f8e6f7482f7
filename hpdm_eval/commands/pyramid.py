"""`hpdm-eval pyramid`: whether the levels of a sampled pyramid agree with each other."""

import time
from hashlib import sha256
from pathlib import Path, PurePosixPath

import click
import numpy as np

from hpdm.support.errors import InputError
from hpdm.support.progress import progress
from hpdm_eval.clips.source import open_clips
from hpdm_eval.commands.options import take_protocol, take_reading
from hpdm_eval.commands.recorded import RecordedCommand
from hpdm_eval.evaluation.pixels import aligned, pixel_options, pixel_record, show_record
from hpdm_eval.metrics.pyramid_consistency import band_names, compare_levels, psnr
from hpdm_eval.metrics.score_tests import mean_interval

MOST_DB = 100.0  # stands for the PSNR of equal clips, which is infinite
WORST = 10


@click.command(cls=RecordedCommand)
@click.option(
    "--samples",
    required=True,
    type=click.Path(),
    metavar="DIR",
    help="Folder with level0, level1, ... (coarse to fine), each holding the same names.",
)
@click.option("--levels", type=click.IntRange(min=2), default=3, show_default=True, help="Levels to compare.")
@pixel_options
def pyramid(samples, levels, **options):
    """How far is each level of a sample, shrunken, from the coarser level that it was made from?

    Prints, for each pair of levels, the PSNR (mean over clips; the value is that of the pair that agrees least), the
    mean difference, and the error by octave of spatial frequency (fractions of the coarser level's Nyquist frequency).
    `hpdm-sample --save-levels --format npy --out DIR` makes such folders; lossy files would add their own errors.
    """
    started = time.time()
    protocol = take_protocol(options)
    folders = level_folders(samples, levels)
    pairs = read_pairs(folders, protocol, options)
    errors, names = [[] for _ in pairs], [[] for _ in pairs]
    summaries = []
    for index, (pair, summary) in enumerate(pairs):
        for name, coarse, fine in pair:
            try:
                errors[index].append(compare_levels(coarse, fine))
            except InputError as error:
                raise InputError(f"{name}, levels {index} and {index + 1}: {error}") from error
            names[index].append(name)
        summaries += summary() if index == 0 else summary()[1:]
    rng = np.random.default_rng(options["seed"])
    details, worst = [], []
    for index, (found, whose) in enumerate(zip(errors, names)):
        details.append(_figures(index, found, rng))
        order = np.argsort([error.psnr for error in found])[:WORST]
        worst += [{"name": whose[k], "level": index + 1, "psnr": min(found[k].psnr, MOST_DB)} for k in order]
    least = min(details, key=lambda entry: entry["psnr"])
    record = pixel_record(
        "pyramid",
        protocol,
        {"levels": levels},
        started=started,
        seed=options["seed"],
        value=least["psnr"],
        ci95=least["ci95"] and tuple(least["ci95"]),
        unit="dB",
        higher_is_better=True,
        num_samples=summaries[-1]["clips"],
        samples=_of_all_levels(samples, summaries),
        details=tuple(details),
        extra={"worst": sorted(worst, key=lambda entry: entry["psnr"])[:WORST]},
    )
    return show_record(record, options, ["", *_table(details)])


def level_folders(samples, levels):
    """Paths of level0 .. level<levels-1> under `samples`; raises InputError where one is missing."""
    folders = [Path(samples) / f"level{level}" for level in range(levels)]
    missing = [folder.name for folder in folders if not folder.is_dir()]
    if missing:
        raise InputError(
            f"{samples} lacks {', '.join(missing)}: it must hold one folder for each level, coarse to "
            "fine, with files of the same names"
        )
    return folders


def read_pairs(folders, protocol, options):
    """For each two neighbouring levels: iterator of (name, coarse, fine), and what then gives both their summaries."""

    def pair(coarse, fine):
        sources = [open_clips(folder, protocol, **take_reading(options, "samples")) for folder in (coarse, fine)]

        def unequal(where):
            rejected = [
                f"; {folder.name}/{entry['path']} was rejected: {entry['reason']}"
                for folder, source in zip((coarse, fine), sources)
                for entry in source.rejected
            ]
            return InputError(f"{coarse} and {fine} do not hold the same clips: {where}{''.join(rejected[:1])}")

        def clips():
            with progress(total=len(sources[1]), unit="clip", description=fine.name, quiet=options["quiet"]) as bar:
                other = iter(sources[1])
                for clip in sources[0]:
                    match = next(other, None)
                    if match is None or _stem(match) != _stem(clip):
                        raise unequal(f"{clip.name} stands beside {match.name if match else 'nothing'}")
                    yield clip.name, clip.video, match.video
                    bar.update()
                if (extra := next(other, None)) is not None:
                    raise unequal(f"{extra.name} has no partner")

        return clips(), lambda: [source.summary() for source in sources]

    return [pair(*two) for two in zip(folders, folders[1:])]


def _of_all_levels(samples, summaries):
    """The record's entry for the samples: one digest of all levels, and what was rejected on any."""
    digests = "".join(summary["sha256"] for summary in summaries)
    rejected = [
        {**entry, "path": f"level{level}/{entry['path']}"}
        for level, summary in enumerate(summaries)
        for entry in summary["rejected"]
    ]
    return {**summaries[-1], "path": str(samples), "sha256": sha256(digests.encode()).hexdigest(), "rejected": rejected}


def _stem(clip):
    """A clip's name without the suffix, with its number in an array."""
    return str(PurePosixPath(clip.file).with_suffix("")), clip.number


def _figures(index, errors, rng):
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


def _table(details):
    header = ["levels", "PSNR dB", "bias", *(f"rmse {name}" for name in band_names())]
    rows = [
        [
            f"{entry['level']} to {entry['coarse_level']}",
            f"{entry['psnr']:.2f}",
            f"{entry['bias']:+.2f}",
            *(f"{entry[f'rmse {name}']:.2f}" for name in band_names()),
        ]
        for entry in details
    ]
    return aligned(header, rows)
