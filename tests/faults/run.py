"""Run all fault campaigns at length and write what came of them as a page.

    python tests/faults/run.py --out reports/reliability.md            # half an hour on two cores
    python tests/faults/run.py --parts scratch/faults --minutes 30     # again and again, until all is done
    python tests/faults/run.py --effort 0.1 --only "Lost writes"

With --parts, what is done is kept there, commit by commit, and the same command continues; the page is written once all
campaigns of one commit are done.
"""

import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hpdm.support.console import Command, OutputFile, OutputFolder
from hpdm.support.environment import git_revision, hardware, package_versions
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, parse_json, write_json
from hpdm.support.progress import note
from hpdm_eval.support.text_tables import piped
from tests.faults.campaigns import BAD, CAMPAIGNS, GOOD

COLUMNS = ("fault", "tried", *GOOD, *BAD)
PIECES = 20  # of a campaign, at most: each is kept when it is done
WHOLE = ("Many files", "Lost writes")


@click.command(cls=Command)
@click.option("--out", type=OutputFile(), metavar="FILE.md", help="Page to write. [printed only]")
@click.option("--effort", type=click.FloatRange(min=0.001), default=1.0, show_default=True, help="Share of the tries.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes which faults are tried.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Campaigns at the same time.")
@click.option("--only", multiple=True, type=click.Choice(list(CAMPAIGNS)), help="One campaign; repeatable.")
@click.option("--parts", type=OutputFolder(path_type=Path), metavar="DIR", help="Keep what is done, and continue it.")
@click.option("--minutes", type=click.FloatRange(min=0), help="Begin nothing after so long; needs --parts.")
def run(out, effort, seed, jobs, only, parts, minutes):
    """Damage, kill and cut off power; exit code 1 where anything was lost, 3 where --minutes were too few."""
    if minutes is not None and parts is None:
        raise InputError("--minutes without --parts would lose what is done; give both")
    began, commit = time.monotonic(), git_revision() or "unknown"
    if parts is not None and commit.endswith("-dirty"):
        raise InputError("what is kept is of a commit, and the files differ from theirs; commit first")
    words = f"--effort {effort:g} --seed {seed}" + "".join(f" --only {name!r}" for name in only)
    pieces = [
        (name, number, tries)
        for name in only or CAMPAIGNS
        for number, tries in enumerate(split(max(1, round(CAMPAIGNS[name][2] * effort)), name))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        kept = (parts or Path(scratch)) / f"{commit[:12]}-{seed}-{effort:g}"
        kept.mkdir(parents=True, exist_ok=True)
        missing = [piece for piece in pieces if not (kept / file_of(piece)).exists()]
        limit = None if minutes is None else began + 60 * minutes
        with ProcessPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for result in [pool.submit(run_piece, piece, seed, kept, limit) for piece in missing]:
                if text := result.result():
                    note(text)
        if left := [piece for piece in pieces if not (kept / file_of(piece)).exists()]:
            click.echo(f"{len(pieces) - len(left)} of {len(pieces)} pieces are done; the same command continues")
            return UNFINISHED
        done = [(piece[0], parse_json((kept / file_of(piece)).read_bytes())) for piece in pieces]
    text = page(list(only or CAMPAIGNS), done, words, commit)
    click.echo(text)
    if out:
        with atomic_file(out, "w") as file:
            file.write(text)
    return (
        1
        if any(sum(tally["counts"].get(key, 0) for key in BAD) for _, piece in done for tally in piece["tallies"])
        else 0
    )


UNFINISHED = 3


def split(tries, name):
    """Numbers of tries that sum up to `tries`, PIECES of them at most; one where they are the size of a single try."""
    count = 1 if name in WHOLE else min(PIECES, tries)
    return [tries * (number + 1) // count - tries * number // count for number in range(count)]


def file_of(piece):
    """Where a piece's result is kept."""
    name, number, tries = piece
    return f"{name.replace(' ', '-').replace(',', '')}-{number}-{tries}.json"


def run_piece(piece, seed, kept, until):
    """Run a part of a campaign and keep its tallies; returns a text of them. Does nothing after the time `until`."""
    name, number, tries = piece
    if until is not None and time.monotonic() > until:
        return None
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tallies = CAMPAIGNS[name][0](tries, f"{seed}.{number}", Path(folder) / "faults")
    result = {
        "seconds": time.monotonic() - began,
        "hardware": hardware(),
        "tallies": [
            {"name": tally.name, "counts": dict(tally.counts), "examples": tally.examples} for tally in tallies
        ],
    }
    write_json(kept / file_of(piece), result)
    return "\n".join(f"{tally.name}: {dict(tally.counts)}" for tally in tallies)


def page(names, done, words, commit):
    """The page of campaigns that are done: [(campaign, result of a piece), ...]."""
    sections, counts, examples, seconds = [], Counter(), [], sum(piece["seconds"] for _, piece in done)
    for name in names:
        rows = {}
        for tally in (tally for campaign, piece in done if campaign == name for tally in piece["tallies"]):
            rows.setdefault(tally["name"], Counter()).update(tally["counts"])
            examples += [f"- {tally['name']}: {text}" for text in tally["examples"]]
        cells = [[row, str(sum(own.values())), *(str(own[key]) for key in (*GOOD, *BAD))] for row, own in rows.items()]
        about = " ".join(CAMPAIGNS[name][0].__doc__.split())
        sections.append(f"## {name}\n\n{about}\n\n" + piped(COLUMNS, cells, right=COLUMNS[1:]))
        counts.update(sum(rows.values(), Counter()))
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    bad = sum(counts[key] for key in BAD)
    return "\n".join(
        [
            f"# Reliability\n\n{INTRODUCTION}\n",
            f"**{sum(counts.values()):,} faults tried, {bad} ended badly.**\n",
            *sections,
            *examples,
            f"Made by `python tests/faults/run.py {words}` in {seconds / 60:.0f} minutes of campaigns on "
            f"{done[0][1]['hardware']}; commit {commit[:12]}; {versions}.\n",
        ]
    )


INTRODUCTION = """What happens to runs, samples and results when something fails. `survived`: the work went on and \
came out as if nothing had happened, or the damage was in nothing that is read. `said`: one line named what is wrong, \
exit code 2. The others may not happen: `lost` is damage that nobody was told of, or work that was gone; `traceback` \
an error that is no message; `hang` a file that took more than twenty seconds."""


if __name__ == "__main__":
    run()
