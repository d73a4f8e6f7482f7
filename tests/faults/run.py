"""Run all fault campaigns at length and write what came of them as a page.

    python tests/faults/run.py --out reports/reliability.md            # the better part of an hour on two cores
    python tests/faults/run.py --effort 0.1 --only "Lost writes"
"""

import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from campaigns import BAD, CAMPAIGNS, GOOD  # noqa: E402  found by the line above

from hpdm.console import Command, OutputFile, note  # noqa: E402
from hpdm.environment import git_revision, hardware, package_versions  # noqa: E402
from hpdm.files import atomic_file  # noqa: E402
from hpdm_eval.tables import piped  # noqa: E402

COLUMNS = ("fault", "tried", *GOOD, *BAD)


@click.command(cls=Command)
@click.option("--out", type=OutputFile(), metavar="FILE.md", help="Page to write. [printed only]")
@click.option("--effort", type=click.FloatRange(min=0.001), default=1.0, show_default=True, help="Share of the tries.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes which faults are tried.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Campaigns at the same time.")
@click.option("--only", multiple=True, type=click.Choice(list(CAMPAIGNS)), help="One campaign; repeatable.")
def run(out, effort, seed, jobs, only):
    """Damage, kill and cut off power; exit code 1 where anything was lost."""
    torch.set_num_threads(1)
    began, parts, tallies, names = time.monotonic(), [], [], list(only or CAMPAIGNS)
    words = f"--effort {effort:g} --seed {seed}" + "".join(f" --only {name!r}" for name in only)
    with ProcessPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        results = [pool.submit(run_one, name, effort, seed) for name in names]
    for name, result in zip(names, results, strict=True):
        own = result.result()
        rows = [[tally.name, str(tally.tried), *(str(tally.counts[key]) for key in (*GOOD, *BAD))] for tally in own]
        for row in rows:
            note("  ".join(row))
        about = " ".join(CAMPAIGNS[name][0].__doc__.split())
        parts.append(f"## {name}\n\n{about}\n\n" + piped(COLUMNS, rows, right=COLUMNS[1:]))
        tallies += own
    text = page(tallies, parts, words, time.monotonic() - began)
    click.echo(text)
    if out:
        with atomic_file(out, "w") as file:
            file.write(text)
    return 1 if any(tally.bad for tally in tallies) else 0


def run_one(name, effort, seed):
    """The tallies of one campaign."""
    campaign, _, full = CAMPAIGNS[name]
    with tempfile.TemporaryDirectory() as folder:
        return campaign(max(1, round(full * effort)), seed, Path(folder) / "faults")


def page(tallies, parts, words, seconds):
    """The page of campaigns that are done."""
    tried, bad = sum(tally.tried for tally in tallies), sum(tally.bad for tally in tallies)
    examples = [f"- {tally.name}: {text}" for tally in tallies for text in tally.examples]
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    return "\n".join([
        f"# Reliability\n\n{INTRODUCTION}\n", f"**{tried:,} faults tried, {bad} ended badly.**\n", *parts, *examples,
        f"Made by `python tests/faults/run.py {words}` in {seconds / 60:.0f} minutes on {hardware()}; commit "
        f"{(git_revision() or 'unknown')[:12]}; {versions}.\n",
    ])


INTRODUCTION = """What happens to runs, samples and results when something fails. `survived`: the work went on and \
came out as if nothing had happened, or the damage was in nothing that is read. `said`: one line named what is wrong, \
exit code 2. The others may not happen: `lost` is damage that nobody was told of, or work that was gone; `traceback` \
an error that is no message; `hang` a file that took more than twenty seconds."""


if __name__ == "__main__":
    run()
