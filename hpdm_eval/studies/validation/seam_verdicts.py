"""Are real clips called seamed after a resize or a codec, and is a step of one grey level still found?

    python -m hpdm_eval.studies.validation.seam_verdicts --samples UCF-101/ --out reports

Puts real clips through the forty combinations of seam_codecs.py, judges sets of 8, 24 and all of them as
`hpdm-eval seams` does, and the same again with a brightness step of one grey level between tiles. Writes
seams-codecs.csv and seams-codecs.md. What an interrupted call has measured is used again from --scratch.
"""

import csv
import io
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
import numpy as np

from hpdm.support.console import Command, OutputFolder, common_options, own_folder
from hpdm.support.environment import git_revision
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file
from hpdm.support.progress import note
from hpdm_eval.clips.selection import source_of
from hpdm_eval.clips.source import Clip, open_clips
from hpdm_eval.metrics.seam_contrasts import AXES
from hpdm_eval.metrics.seam_tests import judge_seams
from hpdm_eval.metrics.seams import ClipSeams, Lattice, measure_clip, rescore, seam_lattices
from hpdm_eval.protocols import load_protocol
from hpdm_eval.studies.validation.seam_codecs import Encode, Resize, combinations, put_through
from hpdm_eval.studies.validation.seam_injection import inject_seams

Steps = tuple[Resize | Encode, ...]
Measured = dict[tuple[tuple[int, int, int], bool], list[ClipSeams]]  # by (patch, stepped)

PATCHES = ((16, 64, 64),)
LEVELS = 2  # of tiles: the patch and twice that
FRAMES = 20  # the shortest clip of UCF-101 has 29
SETS = {8: 2, 24: 2}  # clips in a set: disjoint random sets, at most; and one set of all
STEPPED, STEPPED_SETS = 24, 1  # clips in a set with a step between tiles; and how many such sets
TOGETHER = 3  # combinations that share a first resize
CHUNK = 32  # clips measured at once
COLUMNS = (
    "steps",
    "patch",
    "clips",
    "sets",
    "called",
    *(f"verdicts {axis}" for axis in AXES),
    *(f"{what} {axis}" for what in ("found", "missed") for axis in AXES),
)


@click.command(cls=Command)
@click.option("--samples", required=True, type=click.Path(), metavar="DIR", help="Real clips of 240x320.")
@click.option("--clips", type=click.IntRange(min=24), default=96, show_default=True, help="Clips to use, at random.")
@click.option("--out", required=True, type=OutputFolder(), metavar="DIR", help="Folder for the table and the page.")
@click.option("--scratch", default="scratch/seams", show_default=True, metavar="DIR", help="Folder for measurements.")
@click.option(
    "--part",
    default="1/1",
    show_default=True,
    metavar="K/N",
    help="Take every N-th task from the K-th on, to share the work; a last call with 1/1 writes the table.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that judge.")
@common_options
def main(
    samples: str, clips: int, out: str, scratch: str, part: str, jobs: int, device: str, seed: int, quiet: bool
) -> None:
    """Judge real clips after forty combinations of resizes and codecs."""
    os.environ.setdefault("SVT_LOG", "1")
    first, every = _part(part)
    protocol = load_protocol("native", frames=FRAMES, samples_selection="shuffled")
    videos = list(open_clips(samples, protocol, num=clips, workers=0, seed=seed, quiet=quiet))
    chunks = [videos[start : start + CHUNK] for start in range(0, len(videos), CHUNK)]
    digests = [sha256("".join(clip.digest for clip in chunk).encode()).hexdigest()[:12] for chunk in chunks]
    numbers = {steps: number for number, steps in enumerate(combinations())}
    paths = {
        (steps, k): Path(scratch) / f"{number:02d}-{digest}.npz"
        for steps, number in numbers.items()
        for k, digest in enumerate(digests)
    }
    mine = tasks()[first - 1 :: every]
    for k, chunk in enumerate(chunks):
        for chains in mine:
            missing = [steps for steps in chains if not paths[steps, k].exists()]
            for steps, measured in zip(missing, measure_combinations(chunk, missing, k * CHUNK)):
                save_measured(paths[steps, k], measured)
                note(f"{name_of(steps)}, {k + 1} of {len(chunks)}", quiet)
    if every > 1:
        return
    own_folder(out)
    rows = []
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        files = [[paths[steps, k] for k in range(len(chunks))] for steps in numbers]
        for steps, judged in zip(numbers, pool.map(_judge_files, numbers, files, [seed] * len(files))):
            rows += judged
            note(f"judged: {name_of(steps)}", quiet)
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for name, content in (
        ("seams-codecs.csv", table.getvalue()),
        ("seams-codecs.md", page(rows, [clip.name for clip in videos], seed)),
    ):
        with atomic_file(Path(out) / name) as file:
            file.write(content.encode())
        note(f"wrote {Path(out) / name}", quiet)


def name_of(steps: Steps) -> str:
    """The steps in a few words."""
    return ", then ".join(map(str, steps))


def _part(text):
    try:
        part, parts = map(int, text.split("/"))
    except ValueError:
        part, parts = 0, 0
    if not 1 <= part <= parts:
        raise InputError(f"--part {text}: write the part and how many there are, such as 2/4")
    return part, parts


def tasks() -> list[list[Steps]]:
    """Combinations to measure together: lists of up to `TOGETHER` that begin with the same resize."""
    groups = {}
    for steps in combinations():
        groups.setdefault(steps[0] if isinstance(steps[0], Resize) else steps, []).append(steps)
    return [group[k : k + TOGETHER] for group in groups.values() for k in range(0, len(group), TOGETHER)]


def measure_combinations(videos: Sequence[Clip], chains: Sequence[Steps], first: int = 0) -> list[Measured]:
    """For each of `chains`, which begin with the same resize or are one, {(patch, stepped): list of ClipSeams}.

    videos: list of Clip; first: the number of the first of them.
    """
    results: list[Measured] = [{(patch, stepped): [] for patch in PATCHES for stepped in (False, True)} for _ in chains]
    if not chains:
        return results
    for number, clip in enumerate(videos, first):
        assert clip.video is not None  # nothing is remembered of these
        shared, coding = put_through(clip.video, chains[0][:1])
        for steps, measured in zip(chains, results):
            video, known = put_through(shared, steps[1:]) if len(steps) > 1 else (shared, coding)
            for patch in PATCHES:
                lattices = lattices_of(patch, steps)
                measured[patch, False].append(measure_clip(video, lattices, clip.name, known))
                if number < STEPPED * STEPPED_SETS:
                    tiled = inject_seams(video, patch, "brightness", 1, number)
                    measured[patch, True].append(measure_clip(tiled, lattices, clip.name, known))
    return results


def lattices_of(patch: tuple[int, int, int], steps: Steps) -> tuple[Lattice, ...]:
    """The lattices that a reader of the clips would look at; those stored without loss are said to be."""
    return seam_lattices(patch, levels=LEVELS, lossless=not isinstance(steps[-1], Encode))


def _judge_files(steps, files, seed):
    measured = {}
    for file in files:
        for key, clips in load_measured(file).items():
            measured.setdefault(key, []).extend(clips)
    return judge_combination(steps, measured, seed)


def judge_combination(steps: Steps, measured: Measured, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of the table, dicts with COLUMNS: one for each patch and number of clips."""
    rows = []
    for patch in PATCHES:
        lattices = lattices_of(patch, steps)
        plain, stepped = ([rescore(clip, lattices) for clip in measured[patch, kind]] for kind in (False, True))
        order = np.random.default_rng(seed).permutation(len(plain))
        for count in dict.fromkeys([*(size for size in SETS if size <= len(plain)), len(plain)]):
            sets = [order[start : start + count] for start in range(0, len(plain) - count + 1, count)][
                : SETS.get(count)
            ]
            verdicts = [judge_seams([plain[k] for k in chosen], lattices, draws=0) for chosen in sets]
            row = {
                "steps": name_of(steps),
                "patch": "x".join(map(str, patch)),
                "clips": count,
                "sets": len(sets),
                "called": sum(any(figure.significant for figure in figures) for figures in verdicts),
            }
            for axis in AXES:
                row[f"verdicts {axis}"] = sum(_verdict(figures, axis) for figures in verdicts)
            if count == STEPPED:
                tiled = [stepped[start : start + count] for start in range(0, len(stepped) - count + 1, count)]
                verdicts = [judge_seams(chosen, lattices, draws=0) for chosen in tiled]
                for axis in AXES:
                    calls = [_found(figures, axis) for figures in verdicts]
                    row |= {f"found {axis}": calls.count(True), f"missed {axis}": calls.count(False)}
            rows.append(row)
    return rows


def _verdict(figures, axis):
    """Whether the finest lattice of an axis gets a verdict by any statistic."""
    own = [figure for figure in figures if figure.axis == axis]
    finest = min((figure.period for figure in own), default=None)
    return any(figure.significant is not None for figure in own if figure.period == finest)


def _found(figures, axis):
    """Whether an axis is called a seam; None where it gets no verdict under any statistic on any lattice."""
    own = [figure.significant for figure in figures if figure.axis == axis]
    return True if any(own) else None if all(verdict is None for verdict in own) else False


def save_measured(path: Path, measured: Measured) -> None:
    """What `judge_combination` needs, as arrays without pickles."""
    arrays = {}
    for (patch, stepped), clips in measured.items():
        for number, clip in enumerate(clips):
            head = f"{'x'.join(map(str, patch))}/{int(stepped)}/{number}"
            arrays[f"{head}/shape"] = np.array(clip.shape)
            arrays[f"{head}/block"] = np.array(clip.block or 0)
            arrays[f"{head}/sizes"] = np.array(clip.sizes)
            for (axis, statistic), values in clip.values.items():
                arrays[f"{head}/values/{axis}/{statistic}"] = values
                whole = clip.contrasts[axis, statistic].astype(np.float64).mean(axis=1, keepdims=True)
                arrays[f"{head}/contrasts/{axis}/{statistic}"] = whole.astype(np.float32)
                arrays[f"{head}/stepped/{axis}/{statistic}"] = clip.stepped[axis, statistic]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's types: a key might be allow_pickle


def load_measured(path: Path) -> Measured:
    """The inverse of `save_measured`; clips have scores only after `rescore`."""
    parts = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            patch, stepped, number, *what = key.split("/")
            head = tuple(map(int, patch.split("x"))), bool(int(stepped)), int(number)
            parts.setdefault(head, {})[tuple(what)] = arrays[key]
    measured = {(patch, stepped): [] for patch in PATCHES for stepped in (False, True)}
    for (patch, stepped, number), arrays in sorted(parts.items(), key=lambda item: item[0][2]):
        kinds = {
            kind: {what[1:]: value for what, value in arrays.items() if what[0] == kind}
            for kind in ("values", "contrasts", "stepped")
        }
        frames, rows, columns = map(int, arrays["shape",])
        measured[patch, stepped].append(
            ClipSeams(
                name=str(number),
                shape=(frames, rows, columns),
                scores={},
                profiles={},
                edges={},
                sizes=tuple(arrays["sizes",]),
                block=int(arrays["block",]) or None,
                values=kinds["values"],
                contrasts=kinds["contrasts"],
                stepped=kinds["stepped"],
            )
        )
    return measured


def page(rows: Sequence[dict[str, Any]], names: Sequence[str], seed: int) -> str:
    """The markdown page of the table; names: of the clips."""
    clips, groups = len(names), len(set(map(source_of, names)))
    patches = ", ".join(dict.fromkeys(row["patch"] for row in rows))
    lines = [
        "# Seams in real clips after resizes and codecs",
        "",
        (
            f"Made by `python -m hpdm_eval.studies.validation.seam_verdicts --clips {clips} --seed {seed}` (commit "
            f"{git_revision() or 'unknown'}) on {clips} UCF-101 clips of 240x320 from {groups} groups of that "
            "data set, drawn "
            f"at random, the first {FRAMES} frames of each, tiles of {patches} on {LEVELS} levels. UCF-101 is "
            "MPEG-4 to begin "
            "with. Every combination was applied to the clips; where a codec comes last the files' own packets "
            "were read as "
            "`hpdm-eval seams` reads them, where a resize does the clips count as stored without loss. Crops "
            "are of the "
            "middle. Sets of clips are disjoint."
        ),
        "",
        (
            f"`called`: sets called seamed on any lattice, {_share(rows, 'called')} over all rows. `verdicts`: "
            "sets in which "
            "the finest lattice of an axis gets a verdict, which needs a step of one grey level to be found. "
            "`found`: of the "
            f"sets of {STEPPED} clips with a brightness step of one grey level between their tiles, put in "
            "after the last step, "
            "those that are called a seam on that axis, of those with a verdict there."
        ),
        "",
        "## Summary",
        "",
        "| clips | called | verdicts f | verdicts h | verdicts w | found f | found h | found w |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for count in dict.fromkeys(row["clips"] for row in rows):
        own = [row for row in rows if row["clips"] == count]
        shares = [_found_share(own, axis) if count == STEPPED else "" for axis in AXES]
        cells = [count, _share(own, "called"), *(_share(own, f"verdicts {axis}") for axis in AXES), *shares]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    header = ["steps", "clips", "called", *(f"verdicts {axis}" for axis in AXES), *(f"found {axis}" for axis in AXES)]
    lines += ["", "## Table", "", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for row in rows:
        cells = [
            row["steps"],
            row["clips"],
            *(f"{row[key]}/{row['sets']}" for key in ("called", *(f"verdicts {axis}" for axis in AXES))),
            *(_found_share([row], axis) if f"found {axis}" in row else "" for axis in AXES),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _share(rows, key):
    hits, sets = sum(row[key] for row in rows), sum(row["sets"] for row in rows)
    return f"{hits}/{sets} ({hits / sets:.0%})"


def _found_share(rows, axis):
    detected, missed = (sum(row[f"{what} {axis}"] for row in rows) for what in ("found", "missed"))
    return f"{detected}/{detected + missed}" if detected + missed else "no verdict"


if __name__ == "__main__":
    main()
