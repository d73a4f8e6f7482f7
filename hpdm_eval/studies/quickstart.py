"""The whole way from a model to videos to a table, offline: what `hpdm-eval quickstart` does.

Four sets of drawn videos are written as mp4 files: a reference, other clips like it, clips of fewer classes, and
blurred ones; a fifth is sampled from the nano model that ships with hpdm, in few steps. Each is judged against the
reference.

Clips are uint8 [T, H, W, 3].
"""

import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hpdm.data.procedural import CLASS_NAMES, procedural_clip
from hpdm.support.environment import choose_device
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, atomic_folder, holds_something
from hpdm.support.progress import note, progress
from hpdm.video.workers import available_cores
from hpdm.video.writer import write_video
from hpdm_eval.evaluation.api import record_of
from hpdm_eval.evaluation.reference import make_statistics
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.protocols import load_protocol
from hpdm_eval.records.record import Record, running_command, save_record
from hpdm_eval.report.make import make_report
from hpdm_eval.report.tables import markdown_table
from hpdm_eval.studies.sampling_processes import sample_share, sampling_processes

FRAMES, SIZE = 16, 32  # what the shipped model makes
FIRST_SEED = 7_000_000  # far from the seeds that the backbone and the models are trained on
BLUR = 5  # pixels
FEW_CLASSES = 3
SAMPLES = "nano"
DRAFT: dict[str, Any] = {"steps": (12, 6, 3), "overlap": "none"}  # a sixth of the shipped model's block evaluations
MOST_SAMPLERS = 8  # processes
FEWEST_VIDEOS = 12  # per process: starting one takes as long as sampling so many
MARKER = ".made-by-hpdm-eval-quickstart"

Drawn = tuple[np.ndarray, int]  # a clip and its class


def reference_clip(seed: int, index: int) -> Drawn:
    """A real clip and its class; every twelve in a row hold each class once."""
    return procedural_clip(seed, index, FRAMES, SIZE, SIZE)


def blurred_clip(seed: int, index: int) -> Drawn:
    """A real clip under a box blur over rows and columns: its content is right, its detail is gone."""
    clip, label = reference_clip(seed, index)
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2).float()
    frames = F.avg_pool2d(frames, BLUR, stride=1, padding=BLUR // 2, count_include_pad=False)
    return frames.permute(0, 2, 3, 1).round().to(torch.uint8).numpy(), label


def few_classes_clip(seed: int, index: int) -> Drawn:
    """A real clip of one of the first few classes: each clip is perfect, the set lacks variety."""
    return procedural_clip(seed, index, FRAMES, SIZE, SIZE, label=index % FEW_CLASSES)


# folder → (function of (seed, index) that draws a clip, the table's words for the set)
SETS: dict[str, tuple[Callable[[int, int], Drawn], str | None]] = {
    "reference": (reference_clip, None),
    "real": (reference_clip, "other real clips"),
    "few-classes": (few_classes_clip, f"{FEW_CLASSES} of {len(CLASS_NAMES)} classes"),
    "blurred": (blurred_clip, f"blurred over {BLUR} px"),
}


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """What a quickstart has made."""

    records: dict[str, Record]  # by the table's words for the set
    page: Path  # of the report


def check_free(out: Path) -> None:
    """Raise InputError for a folder that holds files which no quickstart made."""
    if holds_something(out) and not (out / MARKER).exists():
        raise InputError(f"{out} holds files that no quickstart made; name another folder with --out")


def run_quickstart(
    out: Path,
    *,
    clips: int = 132,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
    show: Callable[[Record], object] = lambda record: None,
) -> Quickstart:
    """Make `clips` videos of each set in the folder `out`, judge them, and write records, a table and a page there.

    show: gets every record when it is made. Raises InputError for a folder that holds other files.
    """
    check_free(out)
    with atomic_file(out / MARKER, "w"):
        pass
    for name in (SAMPLES, "records"):  # drawn sets are replaced, so are samples and what was said of them
        shutil.rmtree(out / name, ignore_errors=True)
    reference = out / "reference.npz"

    def evaluation(samples: Path, against: Path | None = None) -> Evaluation:
        return Evaluation(
            protocol=load_protocol("native", backbone="shapes3d"),
            samples=samples,
            reference=against,
            device=device,
            seed=seed,
            quiet=quiet,
            workers=0,  # our own files break no decoder
        )

    def judge(name: str) -> Record:
        record = record_of("fvd", evaluation(out / name, reference))
        note(f"\n$ {record.command}", quiet)
        save_record(record, out / "records")
        show(record)
        return record

    records = {}
    with _sampling(out / SAMPLES, clips, device, seed, quiet) as wait:
        for number, (name, (draw, _)) in enumerate(SETS.items()):
            _draw_set(out / name, clips, draw, FIRST_SEED + seed * len(SETS) + number, quiet)
        _write_statistics(evaluation(out / "reference"), reference)
        records |= {words: judge(name) for name, (_, words) in SETS.items() if words}
        wait()
    records["nano model, draft steps"] = judge(SAMPLES)
    with atomic_file(out / "table.md", "w") as file:
        file.write(markdown_table(list(records.values()), names=list(records)))
    videos = {name: out / name for name in (*SETS, SAMPLES)}
    page = make_report([out / "records"], out / "report", title="Quickstart", videos=videos)
    return Quickstart(records=records, page=page)


def _write_statistics(evaluation: Evaluation, path: Path) -> None:
    words = ["hpdm-eval", "stats", "--data", str(evaluation.samples), "--out", str(path), "--protocol", "native"]
    words += ["--backbone", "shapes3d", "--device", evaluation.device, "--seed", str(evaluation.seed)]
    note(f"\n$ {shlex.join(words)}", evaluation.quiet)
    with running_command(words):
        make_statistics(evaluation).save(path)


def _draw_set(folder: Path, clips: int, draw: Callable[[int, int], Drawn], seed: int, quiet: bool) -> None:
    with atomic_folder(folder) as place:
        for index in progress(range(clips), description=f"drawing {folder.name}", unit="clip", quiet=quiet):
            clip, label = draw(seed, index)
            write_video(place / f"{index:05d}_c{label:03d}.mp4", clip)


@contextmanager
def _sampling(out: Path, clips: int, device: str, seed: int, quiet: bool) -> Iterator[Callable[[], None]]:
    """Sample while the block runs, in as many processes as there are cores; on a GPU before it, in this one.

    Yields a function that waits for the samples.
    """
    steps, overlap = ",".join(map(str, DRAFT["steps"])), DRAFT["overlap"]
    words = ["hpdm-sample", "--checkpoint", SAMPLES, "--num", clips, "--out", out, "--steps", steps]
    command = shlex.join(map(str, [*words, "--overlap", overlap, "--device", device, "--seed", seed]))
    note(f"\n$ {command}", quiet)
    if choose_device(device).type != "cpu":
        sample_share(SAMPLES, out, clips, seed, DRAFT, command, device=device, quiet=quiet)
        yield lambda: None
        return
    count = max(min(available_cores(), MOST_SAMPLERS, clips // FEWEST_VIDEOS), 1)
    note(f"(in {count} processes, meanwhile)", quiet)
    with sampling_processes(count, SAMPLES, out, num=clips, seed=seed, settings=DRAFT, command=command) as processes:

        def wait() -> None:
            note("\nwaiting for the samples", quiet or processes.is_done())
            processes.wait()

        yield wait
