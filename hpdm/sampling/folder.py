"""Samples into a folder: the missing ones of a request, in one process or several, so that the same call continues."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpdm.sampling.request import FORMATS, FolderRequest
from hpdm.sampling.sampler import Sampler
from hpdm.sampling.settings import tiling
from hpdm.sampling.writer import SamplesFolder
from hpdm.support.environment import Launched, hardware
from hpdm.support.errors import InputError, WriteError, going_on
from hpdm.support.lock import LOCK_FILE, hold
from hpdm.support.progress import note, progress


@dataclass(frozen=True, kw_only=True)
class Written:
    """What `sample_into` did."""

    folder: Path
    total: int  # videos in the folder
    made: int  # of them now, by this process


def sample_into(
    sampler: Sampler,
    out: str | Path,
    request: FolderRequest | None = None,
    *,
    process: Launched | None = None,
    quiet: bool = False,
) -> Written:
    """Write the samples of a request that the folder `out` lacks, and `samples.json`; several processes share them.

    Whatever stops it, the folder is left valid. Raises InputError where the folder was made with other settings or
    another program works there, and WriteError where there is no room.
    """
    out, request, process = Path(out), request or FolderRequest(), process or Launched(rank=0, world_size=1)
    if request.format not in FORMATS:
        raise InputError(f"--format {request.format}: choose {', '.join(FORMATS)}")
    name = LOCK_FILE + f"-{process.rank}" * (process.rank > 0)  # processes of one run share the folder
    with hold(out, name):
        run = _Run(sampler, _folders(sampler, out, request), quiet)
        run.say_what()
        sampler.prepare()
        run.note_calls()
        num = sampler.request.num
        run.make(range(process.rank, num, process.world_size))
        if request.sheet and process.rank == 0:
            run.write_sheets(out)
        total = len(run.finest.finished())
        note(
            f"{total} of {num} videos in {out}, {run.made} made now; {sampler.block_evaluations:,} block evaluations",
            quiet,
        )
        return Written(folder=out, total=total, made=run.made)


def _folders(sampler: Sampler, out: Path, request: FolderRequest) -> dict[int, SamplesFolder]:
    """The folder of each level that is kept."""
    fps, checkpoint = sampler.request.fps, sampler.checkpoint
    settings = {
        **sampler.settings(),
        "format": request.format,
        **({"fps": fps, "crf": request.crf} if request.format == "mp4" else {}),
    }
    about = {
        "checkpoint": checkpoint.describe(),
        "weights": checkpoint.weights,
        "block_evaluations_per_video": sampler.blocks_per_video,
        "hardware": hardware(sampler.device),
        "command": request.command,
    }
    return {
        level: SamplesFolder(
            out / f"level{level}" if request.save_levels else out,
            {**settings, "levels": level + 1, "steps": sampler.sampling.level_steps(level + 1)},
            {**about, "resolution": sampler.resolutions[level], **tiling(sampler.method, level)},
            fps=fps,
            crf=request.crf,
            names=sampler.conditions.names,
        )
        for level in (range(sampler.levels) if request.save_levels else [sampler.levels - 1])
    }


class _Run:
    """Makes the samples that `folders`, by level, lack."""

    def __init__(self, sampler: Sampler, folders: dict[int, SamplesFolder], quiet: bool) -> None:
        self.sampler, self.folders, self.quiet = sampler, folders, quiet
        self.finest, self.label = folders[sampler.levels - 1], sampler.conditions.label
        self.made = 0

    def say_what(self) -> None:
        """Notes: from which weights, and what."""
        sampler, checkpoint = self.sampler, self.sampler.checkpoint
        size = "x".join(map(str, sampler.resolutions[-1]))
        note(f"{checkpoint.file} at step {checkpoint.step}, {checkpoint.weights} weights, {size} videos", self.quiet)
        if line := sampler.conditions.describe():
            note(line, self.quiet)

    def note_calls(self) -> None:
        """Have the manifests say how tiles were put into calls, where that may change the last bits."""
        sampler = self.sampler
        if sampler.rates:
            assert sampler.call_sizes is not None and sampler.exact_sizes is not None, "`prepare` makes them"
            sizes = {"sizes": sampler.call_sizes.sizes, "exact_sizes": sampler.exact_sizes.sizes}
            for folder in self.folders.values():
                folder.about["calls"] = {**sizes, "tiles_per_second": sampler.rates}

    def make(self, indices: Sequence[int]) -> None:
        """Sample the missing ones of `indices`; whatever stops it, the folders are left valid."""
        missing = [
            index
            for index in indices
            if not all(folder.has(index, self.label(index)) for folder in self.folders.values())
        ]
        self._write_manifests()
        bar = progress(total=len(indices), initial=len(indices) - len(missing), unit="video", quiet=self.quiet)
        drawn = time.monotonic()

        def show(level: int, done: int, total: int) -> None:
            nonlocal drawn
            bar.set_postfix_str(f"level {level}, step {done}/{total}", refresh=False)
            if not self.quiet and time.monotonic() - drawn > bar.mininterval:  # a batch of large videos takes minutes
                bar.refresh()
                drawn = time.monotonic()

        try:
            for chosen, clips in self.sampler.iterate(missing, show):
                for number, index in enumerate(chosen):
                    for level, folder in self.folders.items():
                        folder.write(index, self.label(index), clips[level][number])
                    self.made += 1
                    bar.update()
        except WriteError as error:
            kept = f"{len(self.finest.finished())} videos are kept; {going_on(error.errno)}"
            raise WriteError(error.filename, error.errno, os.strerror(error.errno), kept) from error
        finally:
            bar.close()
            with suppress(WriteError):  # the error that is being raised already says it
                self._write_manifests()

    def _write_manifests(self) -> None:
        for folder in self.folders.values():
            folder.write_manifest()

    def write_sheets(self, out: Path) -> None:
        """Contact sheets next to the folder."""
        from hpdm.sampling.sheet import write_pyramid, write_sheet  # Pillow is slow to import

        stem, fps = out.parent / out.name, self.sampler.request.fps
        written = write_sheet(f"{stem}-sheet", self.finest, fps=fps)
        written += write_pyramid(f"{stem}-pyramid", self.sampler.videos([0]), fps=fps)
        note("wrote " + ", ".join(map(str, written)), self.quiet)
