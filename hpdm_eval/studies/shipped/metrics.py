"""The metric suite at work: on samples of the nano model and, where they are given, on real and published clips.

    python -m hpdm_eval.studies.shipped.metrics --out reports --ucf scratch/ucf/videos --pvdm pvdm.mp4 --digan digan.mp4

Runs `hpdm-sample` and `hpdm-eval` commands, saves their records, and writes what they print to a page.
"""

import shlex
import subprocess
import sys

import click

from hpdm.checkpoint.load import load_checkpoint
from hpdm.data.procedural_folders import REFERENCE_SEED, draw_clips
from hpdm.support.console import Command, common_options
from hpdm.support.environment import choose_device, git_revision, hardware
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file
from hpdm.support.progress import note
from hpdm_eval.records.record import utc_now

MODULES = {"hpdm-sample": "hpdm.sampling", "hpdm-eval": "hpdm_eval"}
SEAM_STATISTICS = "step sees any mismatch of neighbouring patches, coherent-step offsets of brightness"


@click.command(cls=Command)
@click.option("--checkpoint", default="nano", show_default=True, help="As for hpdm-sample.")
@click.option("--out", required=True, help="Folder of metrics.md, of the pictures and the records.")
@click.option(
    "--scratch",
    default="scratch/metrics",
    show_default=True,
    help="Folder for videos; what an interrupted call left there is used again.",
)
@click.option("--clips", type=click.IntRange(min=32), default=96, show_default=True, help="Samples to judge.")
@click.option("--references", type=click.IntRange(min=32), default=240, show_default=True, help="Real clips.")
@click.option("--ucf", help="Folder of original UCF-101 videos.")
@click.option("--pvdm", help="Contact sheet 1x8 of PVDM's samples, 2048x256.")
@click.option("--digan", help="Contact sheet 1x8 of DIGAN's samples, 2066x260 with 2 pixels of padding.")
@common_options
def main(
    checkpoint: str,
    out: str,
    scratch: str,
    clips: int,
    references: int,
    ucf: str | None,
    pvdm: str | None,
    digan: str | None,
    device: str,
    seed: int,
    quiet: bool,
) -> None:
    """Run every metric and write what it says to OUT/metrics.md."""
    page = _Page(["--device", device, "--seed", str(seed), "--quiet"], ["--record", f"{out}/records"], quiet)
    loaded = load_checkpoint(checkpoint)
    size = loaded.config.pyramid.resolution(loaded.config.pyramid.levels - 1)
    draw_clips(f"{scratch}/reference", REFERENCE_SEED, references, size, quiet)
    overlapped, touching = f"{scratch}/overlap-hw", f"{scratch}/overlap-none"
    made = ["--checkpoint", checkpoint, "--num", clips, "--format", "npy"]
    page.sample(*made, "--overlap", "hw", "--save-levels", "--out", overlapped)
    page.sample(*made, "--overlap", "none", "--out", touching)
    finest = f"{overlapped}/level{loaded.config.pyramid.levels - 1}"

    page.heading("Samples of the nano model against procedural videos", "One extraction, every metric on features.")
    page.judge(
        "all",
        "--samples",
        finest,
        "--reference",
        f"{scratch}/reference",
        "--protocol",
        "native",
        "--backbone",
        "shapes3d",
    )
    page.heading("Seams of the nano model", f"Tiles with and without overlap; {SEAM_STATISTICS}.")
    page.judge("seams", "--samples", finest)
    page.judge("seams", "--samples", touching)
    page.heading("Do the levels of a sample agree?")
    page.judge("pyramid", "--samples", overlapped, "--levels", loaded.config.pyramid.levels)

    if ucf:
        page.heading("Seams in real videos", "There are none, for any of the usual sizes of patches.")
        for patch in ("16x64x64", "16x32x32"):
            page.judge("seams", "--samples", ucf, "--patch", patch, "--frames", 16, "--short", "reject")
        page.heading("Dead tokens in real videos", "What the detector calls dead where nothing is.")
        page.judge("dead-tokens", "--samples", ucf, "--token", "1x4x4")
    for name, sheet, grid in (("PVDM", pvdm, "1x8"), ("DIGAN", digan, "1x8+2")):
        if sheet:
            page.heading(f"Seams in the published samples of {name}", "Neither model works in patches.")
            page.judge("seams", "--samples", sheet, "--grid", grid, "--patch", "16x64x64")
    if ucf:
        page.heading(
            "What the protocol alone does to a distance", "The same videos of two classes under each protocol."
        )
        page.judge(
            "compare-protocols",
            "--samples",
            f"{ucf}/Punch",
            "--reference",
            f"{ucf}/BabyCrawling",
            "--backbone",
            "shapes3d",
            "--num-samples",
            "all",
            "--num-reference",
            "all",
            "--split",
            "none",
            "--out",
            out,
            record=False,
        )

    head = f"""# Metrics

Made by `python -m hpdm_eval.studies.shipped.metrics` with weights {loaded.sha256[:12]} at step {loaded.step:,}, on \
{hardware(choose_device(device))}, {utc_now()[:10]}, commit {(git_revision() or "unknown")[:12]}. The records are in \
`records/`. All of it judges small models and few clips with the shipped backbone: nothing here compares with a \
published figure.
"""
    with atomic_file(f"{out}/metrics.md", "w") as file:
        file.write(head + page.text)


class _Page:
    """Commands and what they print, as markdown."""

    def __init__(self, shared, recorded, quiet):
        self.shared, self.recorded, self.quiet = shared, recorded, quiet
        self.text = ""

    def heading(self, title, about=""):
        self.text += f"\n## {title}\n" + (f"\n{about}\n" if about else "")

    def sample(self, *words):
        self._run("hpdm-sample", words, self.shared)

    def judge(self, *words, record=True):
        shown, printed = self._run("hpdm-eval", words, [*self.shared, *(self.recorded if record else [])])
        self.text += f"\n`{shown}`\n\n```\n{printed.rstrip()}\n```\n"

    def _run(self, program, words, shared):
        words = list(map(str, words))
        shown = shlex.join([program, *words])
        note(f"$ {shown}", self.quiet)
        command = [sys.executable, "-m", MODULES[program], *words, *map(str, shared)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise InputError(f"{shown} ended with {result.returncode}: {result.stderr.strip()}")
        return shown, result.stdout


if __name__ == "__main__":
    main()
