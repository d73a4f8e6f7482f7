"""`hpdm-eval quickstart`: the whole way from a model to videos to a table, offline, in a minute or two.

Clips are uint8 [T, H, W, 3].
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import click
import torch
import torch.nn.functional as F

from hpdm.data.procedural import CLASS_NAMES, procedural_clip
from hpdm.support.console import Command, OutputFolder, common_options
from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, atomic_folder, holds_something
from hpdm.support.lock import hold
from hpdm.support.progress import note, progress
from hpdm.video.workers import available_cores
from hpdm.video.writer import write_video
from hpdm_eval.commands.fvd import fvd
from hpdm_eval.commands.report import report
from hpdm_eval.commands.stats import stats
from hpdm_eval.report.tables import markdown_table, text_table

FRAMES, SIZE = 16, 32  # what the shipped model makes
FIRST_SEED = 7_000_000  # far from the seeds that the backbone and the models are trained on
BLUR = 5  # pixels
FEW_CLASSES = 3
SAMPLES = "nano"
DRAFT = ("--steps", "16,8,4", "--overlap", "none")  # a fifth of the shipped model's block evaluations
MOST_SAMPLERS = 8  # processes
FEWEST_VIDEOS = 12  # per process: starting one takes as long as sampling so many
MARKER = ".made-by-hpdm-eval-quickstart"


def reference_clip(seed, index):
    """A real clip and its class; every twelve in a row hold each class once."""
    return procedural_clip(seed, index, FRAMES, SIZE, SIZE)


def blurred_clip(seed, index):
    """A real clip under a box blur over rows and columns: its content is right, its detail is gone."""
    clip, label = reference_clip(seed, index)
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2).float()
    frames = F.avg_pool2d(frames, BLUR, stride=1, padding=BLUR // 2, count_include_pad=False)
    return frames.permute(0, 2, 3, 1).round().to(torch.uint8).numpy(), label


def few_classes_clip(seed, index):
    """A real clip of one of the first few classes: each clip is perfect, the set lacks variety."""
    return procedural_clip(seed, index, FRAMES, SIZE, SIZE, label=index % FEW_CLASSES)


# folder → (function of (seed, index) that gives a clip and its class, the table's words for it)
SETS = {
    "reference": (reference_clip, None),
    "real": (reference_clip, "other real clips"),
    "few-classes": (few_classes_clip, f"{FEW_CLASSES} of {len(CLASS_NAMES)} classes"),
    "blurred": (blurred_clip, f"blurred over {BLUR} px"),
}


@click.command(cls=Command)
@click.option(
    "--out",
    type=OutputFolder(path_type=Path),
    default="hpdm-quickstart",
    show_default=True,
    help="Folder to fill; one that an earlier quickstart made is used again.",
)
@click.option(
    "--clips",
    type=click.IntRange(min=2),
    default=144,
    show_default=True,
    help="Clips per set; under 129 the distance is mostly sampling bias.",
)
@common_options
def quickstart(out, clips, device, seed, quiet):
    """Make videos, judge them, and write records, a table and a page: a first look that needs no data and no network.

    Four sets of drawn videos are written as mp4 files: a reference, other clips like it, clips of fewer classes, and
    blurred ones; a fifth is sampled from the nano model that ships with hpdm, in few steps. The distance to the
    reference is smallest for the other clips like it.
    """
    if holds_something(out) and not (out / MARKER).exists():
        raise InputError(f"{out} holds files that no quickstart made; name another folder with --out")
    click.get_current_context().with_resource(hold(out))
    with atomic_file(out / MARKER, "w"):
        pass
    for name in (SAMPLES, "records"):  # drawn sets are replaced, so are samples and what was said of them
        shutil.rmtree(out / name, ignore_errors=True)
    shared = ["--device", device, "--seed", str(seed)] + ["--quiet"] * quiet
    common = ["--backbone", "shapes3d", "--protocol", "native", *shared]
    reference, records = out / "reference.npz", {}

    def judge(name, words):
        paths = ["--samples", out / name, "--reference", reference, "--record", out / "records"]
        records[words] = _run(fvd, [*paths, *common], quiet)

    asked = ["--checkpoint", "nano", "--num", clips, "--out", out / SAMPLES, *DRAFT, *shared]
    with _sampling(asked, clips, choose_device(device).type, quiet) as samplers:
        for number, (name, (draw, _)) in enumerate(SETS.items()):
            _draw_set(out / name, clips, draw, FIRST_SEED + seed * len(SETS) + number, quiet)
        _run(stats, ["--data", out / "reference", "--out", reference, *common], quiet)
        for name, (_, words) in SETS.items():
            if words:
                judge(name, words)
        samplers.wait()
    judge(SAMPLES, "nano model, draft steps")

    values = list(records.values())
    with atomic_file(out / "table.md", "w") as file:
        file.write(markdown_table(values, names=list(records)))
    click.echo("\n" + text_table(values, names=list(records)))
    shown = [word for name in (*SETS, SAMPLES) for word in ("--videos", f"{name}={out / name}")]
    _run(
        report,
        ["--records", out / "records", "--out", out / "report", "--title", "Quickstart", *shown, "--quiet"],
        quiet,
    )
    click.echo(f"videos, records and table.md are in {out}")


def _draw_set(folder, clips, draw, seed, quiet):
    with atomic_folder(folder) as place:
        for index in progress(range(clips), description=f"drawing {folder.name}", unit="clip", quiet=quiet):
            clip, label = draw(seed, index)
            write_video(place / f"{index:05d}_c{label:03d}.mp4", clip)


class _Samplers:
    """`hpdm-sample` in processes of one thread each, as torchrun would start them; they share out the videos."""

    def __init__(self, words, count, quiet):
        self._quiet, self._files = quiet, [tempfile.TemporaryFile() for _ in range(count)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(count)}
        search = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
        environment["PYTHONPATH"] = os.pathsep.join(search)
        command = [sys.executable, "-m", "hpdm.sampling", "--", *words]
        self._processes = [
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank, file in enumerate(self._files)
        ]

    def wait(self):
        """Until all have ended; raises InputError with what the first that failed has said."""
        note("\nwaiting for the samples", self._quiet or all(process.poll() is not None for process in self._processes))
        for process, file in zip(self._processes, self._files, strict=True):
            if process.wait():
                file.seek(0)
                last = (file.read().decode(errors="replace").split("\n")[-2:] or [""])[0]
                raise InputError(f"hpdm-sample ended with {process.returncode}: {last.removeprefix('error: ')}")

    def end(self):
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for file in self._files:
            file.close()


class _Sampled:
    """Stands in for `_Samplers` where the videos are there."""

    def wait(self):
        pass


@contextmanager
def _sampling(arguments, clips, device, quiet):
    """Sample while the block runs, in as many processes as there are cores; on a GPU before it, in this one.

    Networks of this size are faster in one thread than in several, and several processes take several videos.
    """
    if device != "cpu":
        from hpdm.commands.sample import sample  # a second, which the processes below take as well

        _run(sample, arguments, quiet)
        yield _Sampled()
        return
    words = list(map(str, arguments))
    count = max(min(available_cores(), MOST_SAMPLERS, clips // FEWEST_VIDEOS), 1)
    note(f"\n$ hpdm-sample {shlex.join(words)}\n(in {count} processes, meanwhile)", quiet)
    samplers = _Samplers(words, count, quiet)
    try:
        yield samplers
    finally:
        samplers.end()


def _run(command, arguments, quiet):
    """Run a command as the shell would, showing what to type for it; returns what it returns."""
    words = list(map(str, arguments))
    name = "hpdm-sample" if command.name == "sample" else f"hpdm-eval {command.name}"
    note(f"\n$ {name} {shlex.join(words)}", quiet)
    return command.main(words, prog_name=name, standalone_mode=False)
