"""Run all fault campaigns at length and write what came of them as a page.

    python tests/faults/run.py --out reports/reliability.md            # the better part of an hour on two cores
    python tests/faults/run.py --effort 0.1 --only "Lost writes"
"""

import sys
import tempfile
import time
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
@click.option("--only", multiple=True, type=click.Choice(list(CAMPAIGNS)), help="One campaign; repeatable.")
def run(out, effort, seed, only):
    """Damage, kill and cut off power; exit code 1 where anything was lost."""
    torch.set_num_threads(1)
    began, parts, bad, examples, tried = time.monotonic(), [], 0, [], 0
    for name, (campaign, _, full) in CAMPAIGNS.items():
        if only and name not in only:
            continue
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            for tally in campaign(max(1, round(full * effort)), seed, Path(folder) / "faults"):
                rows.append([tally.name, str(tally.tried), *(str(tally.counts[key]) for key in (*GOOD, *BAD))])
                bad, tried = bad + tally.bad, tried + tally.tried
                examples += [f"{tally.name}: {text}" for text in tally.examples]
                note("  ".join(rows[-1]))
        parts.append(f"## {name}\n\n{' '.join((campaign.__doc__ or '').split())}\n\n"
                     + piped(COLUMNS, rows, right=COLUMNS[1:]))
    minutes = (time.monotonic() - began) / 60
    words = f"--effort {effort:g} --seed {seed}" + "".join(f" --only {name!r}" for name in only)
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    page = (f"# Reliability\n\n{INTRODUCTION}\n\n**{tried:,} faults tried, {bad} ended badly.**\n\n" + "\n".join(parts)
            + "".join(f"\n- {text}" for text in examples) + ("\n" if examples else "")
            + f"\nMade by `python tests/faults/run.py {words}` in {minutes:.0f} minutes on {hardware()}; commit "
              f"{(git_revision() or 'unknown')[:12]}; {versions}.\n")
    click.echo(page)
    if out:
        with atomic_file(out, "w") as file:
            file.write(page)
    return 1 if bad else 0


INTRODUCTION = """What happens to runs, samples and results when something fails. `survived`: the work went on and \
came out as if nothing had happened, or the damage was in nothing that is read. `said`: one line named what is wrong, \
exit code 2. The others may not happen: `lost` is damage that nobody was told of, or work that was gone; `traceback` \
an error that is no message; `hang` a file that took more than twenty seconds."""


if __name__ == "__main__":
    run()
