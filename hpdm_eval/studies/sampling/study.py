"""What cheaper samplers cost in quality: FVD, seams and class accuracy of each option against the sampler of the paper.

    python -m hpdm_eval.studies.sampling --checkpoint nano --out reports

Every option starts from the same noise as the baseline, so differences are taken pair by pair (pairing.py). Sets are
kept in --scratch when they are made: the same command again goes on where it stopped. Several checkpoints, such as
those of several training seeds, are compared each with its own baseline, and then together.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
import numpy as np

from hpdm.checkpoint.load import Checkpoint, load_checkpoint
from hpdm.config import Config, load_config
from hpdm.config.sampling import SAMPLERS
from hpdm.sampling.steps import count_block_evaluations
from hpdm.support.console import Command, Numbers, OutputFolder, common_options, own_folder
from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, write_json
from hpdm_eval.studies.sampling.options import BASELINE, OPTIONS, Option, slug
from hpdm_eval.studies.sampling.pairing import Difference, frechet_difference, mean_difference, over_networks
from hpdm_eval.studies.sampling.sets import (
    SampledSet,
    SetJob,
    draw_reference,
    load_set,
    make_sets,
    option_settings,
    with_paper_sampler,
)
from hpdm_eval.support.text_tables import piped

SIZES = ("S", "M", "L")
BEGIN, END = "<!-- options: begin -->", "<!-- options: end -->"


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """An option on one checkpoint: joined sets of all seeds against those of the baseline."""

    option: Option
    checkpoint: str
    blocks: int  # block evaluations a video, counted from the settings
    counted: float  # by the sampler
    baseline_blocks: int
    seconds: float  # a video
    relative_seconds: float
    fvd: float
    fvd_ci95: tuple | None
    fvd_difference: Difference
    by_seed: tuple  # differences of FVD, a seed each
    seams: Difference  # the excess itself
    seam_difference: Difference
    detail: float  # over that of real clips
    detail_difference: Difference
    accuracy: float
    accuracy_difference: Difference
    about: tuple  # of each set


@click.command(cls=Command)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    default=["nano"],
    show_default=True,
    metavar="RUN|FILE|nano",
    help="As for hpdm-sample; several are networks of several trainings.",
)
@click.option(
    "--out",
    type=OutputFolder(path_type=Path),
    required=True,
    help="Folder of sampling.md, whose table is replaced, and of the records.",
)
@click.option(
    "--scratch",
    type=OutputFolder(path_type=Path),
    default="scratch/sampling",
    show_default=True,
    help="Folder for sets of samples; what an interrupted call left there is used again.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Sets per option.")
@click.option("--num", type=click.IntRange(min=12), default=144, show_default=True, help="Videos per set.")
@click.option(
    "--reference",
    "reference_clips",
    type=click.IntRange(min=24),
    default=1440,
    show_default=True,
    help="Procedural clips to compare with.",
)
@click.option(
    "--steps",
    type=Numbers(int, "128,64,32"),
    metavar="128,64,32",
    help="Steps per level of the paper's sampler, of which options take their shares. [default: the checkpoint's]",
)
@click.option(
    "--set",
    "common",
    multiple=True,
    metavar="KEY=VALUE",
    help="Of SamplingConfig, for the baseline and all options, such as guidance=2.",
)
@click.option("--only", multiple=True, metavar="OPTION", help="Measure these options and the baseline alone.")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Sets made at a time, a process each."
)
@click.option("--minutes", type=click.FloatRange(min=0), help="Begin no further set after so many minutes.")
@common_options
def main(
    checkpoints: tuple[str, ...],
    out: Path,
    scratch: Path,
    seeds: int,
    num: int,
    reference_clips: int,
    steps: tuple[int, ...] | None,
    common: tuple[str, ...],
    only: tuple[str, ...],
    jobs: int,
    minutes: float | None,
    device: str,
    seed: int,
    quiet: bool,
) -> None:
    """Measure ways to sample: block evaluations, FVD, seams, accuracy, each against the sampler of the paper."""
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    if unknown := [name for name in only if name not in OPTIONS]:
        raise InputError(f"--only {unknown[0]}: there is no such option; there are {', '.join(OPTIONS)}")
    options = [option for name, option in OPTIONS.items() if not only or name in (*only, BASELINE)]
    loaded = {name: load_checkpoint(name) for name in checkpoints}
    for checkpoint in loaded.values():
        with_paper_sampler(checkpoint.config, steps, common)  # refuses what there is not before any work
    sizes = {c.config.pyramid.resolution(c.config.pyramid.levels - 1) for c in loaded.values()}
    if len(sizes) > 1:
        raise InputError("--checkpoint: the networks make videos of different sizes; study them one by one")
    own_folder(out)
    own_folder(scratch)
    device = str(choose_device(device))
    planned = [
        SetJob(
            checkpoint=name,
            sha256=checkpoint.sha256,
            option=option.name,
            seed=seed + number,
            num=num,
            device=device,
            scratch=scratch,
            steps=steps,
            common=common,
        )
        for option in options
        for name, checkpoint in loaded.items()
        for number in range(seeds)
    ]
    (size,) = sizes
    reference, detail, summary = draw_reference(scratch, reference_clips, size, device, quiet)
    make_sets(planned, jobs, deadline=deadline, quiet=quiet)
    rows = _rows(planned, options, loaded, reference, detail)
    if not rows:
        raise InputError(
            "nothing to compare yet: the baseline and one option need all their sets; the same command again goes on"
        )
    left = len(options) * len(loaded) - len(rows)
    for row in rows:
        path = out / "sampling" / f"{_stem(row.checkpoint)}-{slug(row.option.name)}.json"
        write_json(path, _record(row, summary, reference_clips, num, seed).to_dict())
    sets = f"{seeds} seeds of {num} videos" + (f" ({', '.join(common)})" if common else "")
    table = describe(rows, loaded, sets, reference_clips, jobs, left)
    write_between(out / "sampling.md", table)
    click.echo(table)


def _rows(planned, options, loaded, reference, detail):
    """`Row`s of the options whose sets, and the baseline's, are all there; of each option one for each checkpoint."""
    rows, sets = [], {}
    for job in planned:
        sets.setdefault((job.checkpoint, job.option), []).append(load_set(job))
    for option in options:
        for name, checkpoint in loaded.items():
            own, base = sets[name, option.name], sets[name, BASELINE]
            if None not in own and None not in base:
                config = with_paper_sampler(checkpoint.config, planned[0].steps, planned[0].common)
                rows.append(compare(option, name, config, own, base, reference, detail))
    return rows


def compare(
    option: Option,
    name: str,
    config: Config,
    own: Sequence[SampledSet],
    base: Sequence[SampledSet],
    reference: np.ndarray,
    detail: float,
) -> Row:
    """The `Row` of an option from its sets and those of the baseline, seed by seed.

    reference: features [M, D] of real clips; detail: their mean fine detail.
    """
    from hpdm_eval.features.moments import Moments
    from hpdm_eval.metrics.score_tests import mean_t_interval
    from hpdm_eval.metrics.uncertainty import GROUPS, Target, grouped_jackknife

    def joined(sets, part):
        return np.concatenate([getattr(each, part) for each in sets])

    features, target = joined(own, "features"), Target(Moments.of(reference))
    value, ci95 = target.distance(Moments.of(features)), None
    if len(features) >= 2 * GROUPS:
        jackknife = grouped_jackknife(features, Moments.of(reference))
        ci95 = (max(value - jackknife.half_width(), 0.0), value + jackknife.half_width())
    seams, count = joined(own, "seams"), len(features)
    seconds, base_seconds = (sum(each.about["seconds"] for each in sets) for sets in (own, base))
    return Row(
        option=option,
        checkpoint=name,
        blocks=predicted_blocks(config, option),
        counted=float(np.mean([each.about["block_evaluations_per_video"] for each in own])),
        baseline_blocks=predicted_blocks(config, OPTIONS[BASELINE]),
        seconds=seconds / count,
        relative_seconds=seconds / base_seconds,
        fvd=value,
        fvd_ci95=ci95,
        fvd_difference=frechet_difference(features, joined(base, "features"), reference),
        by_seed=tuple(
            target.distance(Moments.of(a.features)) - target.distance(Moments.of(b.features))
            for a, b in zip(own, base, strict=True)
        ),
        seams=Difference(value=float(seams.mean()), ci95=mean_t_interval(seams)),
        seam_difference=mean_difference(seams, joined(base, "seams")),
        detail=float(np.exp(joined(own, "detail").mean() - detail)),
        detail_difference=mean_difference(joined(own, "detail"), joined(base, "detail")),
        accuracy=float(joined(own, "right").mean()),
        accuracy_difference=mean_difference(joined(own, "right"), joined(base, "right")),
        about=tuple(each.about for each in own),
    )


def predicted_blocks(config: Config, option: Option) -> int:
    """Block evaluations of a video under an option, counted from the settings of a `Config`."""
    settings: dict[str, Any] = {**SAMPLERS["paper"], **option_settings(option, config)}
    sampling = replace(config.sampling, **settings)
    return count_block_evaluations(config.network, config.pyramid, config.diffusion, sampling)


def describe(
    rows: Sequence[Row], loaded: Mapping[str, Checkpoint], sets: str, reference_clips: int, jobs: int, left: int
) -> str:
    """The tables as text."""
    first = rows[0].about[0]
    names = "; ".join(f"{name}, weights {c.sha256[:12]} at step {c.step:,}" for name, c in loaded.items())
    parts = [
        f"{names}. {sets} an option, {jobs} at a time, against {reference_clips:,} procedural clips, on "
        f"{first['hardware']}, torch {first['versions'].get('torch')}. FVD by shapes3d, protocol native, of all "
        "videos of an option together; Δ is the difference from the paper's sampler from the same noise, with its "
        "paired 95 % interval; **bold** where that holds 0. Seams are the pooled excess (log contrast). Detail is what "
        "half the resolution would lose, over that of real clips; its Δ is in log units. Predictions were written "
        "before any of it was measured; those with * knew what videos of other seeds had shown."
    ]
    if left:
        parts.append(f"{left} rows are left out: not all of their sets have been made.")
    for name in loaded:
        own = [row for row in rows if row.checkpoint == name]
        header = [
            "option",
            "blocks/video",
            "fewer",
            "s/video",
            "FVD",
            "Δ FVD",
            "predicted",
            "seams",
            "Δ seams",
            "detail",
            "Δ detail",
            "accuracy",
        ]
        parts.append(f"### {name}\n\n" + _table(header, [_cells(row) for row in own]))
    if len(loaded) > 1:
        parts.append(
            "### All networks\n\nMean difference and its interval over networks (Student's t).\n\n"
            + _table(["option", "Δ FVD", "Δ seams", "Δ detail", "Δ accuracy"], list(_of_networks(rows, loaded)))
        )
    options = list(dict.fromkeys(row.option.name for row in rows))
    parts.append(
        "### Block evaluations a video at the published sizes\n\n"
        + _table(
            ["option", *(word for size in SIZES for word in (size, "fewer"))],
            [[name, *(word for size in SIZES for word in _of_size(size, OPTIONS[name]))] for name in options],
        )
    )
    return "\n\n".join(parts)


def _table(header, rows):
    return piped(header, rows, right=header[1:])


def _cells(row):
    known = "*" * row.option.after_trial
    predicted = f"{row.option.predicted_fvd:+.1f}, {row.option.predicted_time:.2f} of the time{known}"
    measured = f"{row.seconds:.3g} ({row.relative_seconds:.2f})"
    base = row.option.name == BASELINE
    wrong = "" if row.counted == row.blocks else f" (counted {row.counted:,.0f})"
    return [
        row.option.name,
        f"{row.blocks:,}{wrong}",
        f"{row.baseline_blocks / row.blocks:.2f}",
        measured,
        _figure(row.fvd, row.fvd_ci95, ".2f"),
        "" if base else _difference(row.fvd_difference, "+.2f"),
        "" if base else predicted,
        _figure(row.seams.value, row.seams.ci95, ".3f"),
        "" if base else _difference(row.seam_difference, "+.3f"),
        f"{row.detail:.3f}",
        "" if base else _difference(row.detail_difference, "+.3f"),
        f"{row.accuracy:.3f}",
    ]


def _figure(value, ci95, form):
    return f"{value:{form}}" + ("" if ci95 is None else f" [{ci95[0]:{form}}, {ci95[1]:{form}}]")


def _difference(difference, form):
    text = _figure(difference.value, difference.ci95, form)
    return f"**{text}**" if difference.within_noise else text


def _of_networks(rows, loaded):
    for name in dict.fromkeys(row.option.name for row in rows):
        own = [row for row in rows if row.option.name == name]
        if name != BASELINE and len(own) == len(loaded):
            yield [
                name,
                *(
                    _difference(over_networks([getattr(row, part).value for row in own]), form)
                    for part, form in (
                        ("fvd_difference", "+.2f"),
                        ("seam_difference", "+.3f"),
                        ("detail_difference", "+.3f"),
                        ("accuracy_difference", "+.3f"),
                    )
                ),
            ]


def _of_size(size, option):
    config = with_paper_sampler(load_config(size))
    own, base = (predicted_blocks(config, each) for each in (option, OPTIONS[BASELINE]))
    return f"{own:,}", f"{base / own:.2f}"


def _record(row, reference, reference_clips, num, seed):
    """The FVD of an option with everything else that was measured of it among the details."""
    from hpdm_eval.protocols import load_protocol
    from hpdm_eval.records.record import make_record

    protocol = load_protocol("native", backbone="shapes3d")
    digest = ",".join(about["samples"]["sha256"] for about in row.about)
    details = [
        {"figure": f"fvd of seed {about['seed']}, difference", "value": value}
        for about, value in zip(row.about, row.by_seed, strict=True)
    ]
    for name, difference in (
        ("fvd, difference", row.fvd_difference),
        ("seams", row.seams),
        ("seams, difference", row.seam_difference),
        ("fine detail, difference of ln", row.detail_difference),
        ("accuracy, difference", row.accuracy_difference),
    ):
        details.append({"figure": name, "value": difference.value, "ci95": difference.ci95 and list(difference.ci95)})
    details += [
        {"figure": name, "value": value}
        for name, value in (
            ("accuracy", row.accuracy),
            ("fine detail, over that of real clips", row.detail),
            ("block evaluations a video", row.blocks),
            ("seconds a video", row.seconds),
            ("seconds, over the baseline's", row.relative_seconds),
            ("predicted fvd, difference", row.option.predicted_fvd),
            ("predicted seconds, over the baseline's", row.option.predicted_time),
        )
    ]
    record = make_record(
        started=time.time(),
        metric="fvd",
        value=row.fvd,
        ci95=row.fvd_ci95,
        higher_is_better=False,
        protocol={**protocol.to_dict(), "hash": protocol.hash()},
        num_samples=num * len(row.about),
        num_reference=reference_clips,
        seed=seed,
        backbone=row.about[0]["backbone"],
        details=tuple(details),
        samples={
            "path": f"{_stem(row.checkpoint)}, {row.option.name}",
            "sha256": sha256(digest.encode()).hexdigest(),
            "clips": num * len(row.about),
            "rejected": [],
        },
        reference={**reference, "path": "procedural"},
        extra={
            "option": row.option.name,
            "settings": row.about[0]["all_settings"],
            "sampled_by": row.about[0]["command"],
            "seams_over": "borders of tiles that overlap by half along rows and columns",
        },
    )
    return replace(record, **{key: row.about[0][key] for key in ("hardware", "versions", "git")})


def _stem(checkpoint):
    return slug(Path(checkpoint).name)


def write_between(path: Path, text: str) -> None:
    """Put `text` between the marks of a page of words, or at its end where it has none."""
    page = path.read_text(encoding="utf-8") if path.exists() else "# Sampling\n"
    if BEGIN not in page:
        page = f"{page.rstrip()}\n\n## Cheaper samplers\n\n{BEGIN}\n{END}\n"
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    with atomic_file(path, "w") as file:
        file.write(f"{before}{BEGIN}\n{text.strip()}\n{END}{after}")


if __name__ == "__main__":
    main()
