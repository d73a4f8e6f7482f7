"""Disks and servers of files that fail: loss of power, requests that are sent twice, stale views, many files."""

import errno
import os
import random
import shutil
import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from killed import weights_of
from small_training import small_config
from tally import CONFIG, Tally, small_run

from hpdm.errors import InputError
from hpdm.files import write_json
from hpdm.sampling.writer import SamplesFolder
from hpdm.training.loop import train
from hpdm_eval.clips import open_clips
from hpdm_eval.protocols import load_protocol


class Disk:
    """Which files and folders the disk knows of: watches the calls that our writers make in this process."""

    def __init__(self):
        self.synced, self.faults, self.renames = {}, [], 0
        self.open_names = set()  # folders in which a name has changed since they were flushed

    @contextmanager
    def watched(self):
        fsync, replace, unlink, rmdir = os.fsync, os.replace, os.unlink, os.rmdir

        def watched_fsync(handle):
            fsync(handle)
            about = os.fstat(handle)
            self.synced[about.st_ino] = about.st_mtime_ns
            if os.path.isdir(f"/proc/self/fd/{handle}"):
                self.open_names.discard(os.path.realpath(f"/proc/self/fd/{handle}"))

        def watched_replace(source, target):
            for path in [Path(source), *Path(source).rglob("*")] if not Path(source).is_symlink() else []:
                if path.is_file() and self.synced.get(path.stat().st_ino, 0) < path.stat().st_mtime_ns:
                    self.faults.append(f"{path.name} became {Path(target).name} before its content was on the disk")
            replace(source, target)
            self.renames += 1
            self.open_names.add(os.path.realpath(Path(target).parent))

        def watched_deletion(function):
            def call(path, *, dir_fd=None):
                folder = Path(f"/proc/self/fd/{dir_fd}" if dir_fd is not None else Path(path).parent).resolve()
                hidden = any(part.startswith(".") for part in (folder / Path(path).name).parts)
                if self.open_names and not hidden and not (folder / Path(path).name).is_symlink():
                    self.faults.append(f"{path} was deleted before what took its place was on the disk")
                function(path, dir_fd=dir_fd)
            return call

        os.fsync, os.replace = watched_fsync, watched_replace
        os.unlink, os.rmdir = watched_deletion(unlink), watched_deletion(rmdir)
        try:
            yield self
        finally:
            os.fsync, os.replace, os.unlink, os.rmdir = fsync, replace, unlink, rmdir


def lost_power(effort, seed, folder):
    """Writes that were not flushed are gone: in a training run, samples and a record every rename must come after its
    content, every folder be flushed after a rename, and nothing be deleted before that."""
    tally = Tally("loss of power: renames whose content or folder was not flushed")
    with Disk().watched() as disk:
        small_run(folder / "run")
        write_json(folder / "records" / "record.json", {"a": 1})
        writer = SamplesFolder(folder / "samples", {"format": "npy"}, {})
        writer.write(0, 0, np.zeros((2, 4, 4, 3), np.uint8))
        writer.write_manifest()
    for _ in range(disk.renames):
        tally.add("survived")
    for fault in [*disk.faults, *(f"{name} was not flushed after a rename" for name in disk.open_names)]:
        tally.add("lost", fault)
    return [tally]


# Servers of files


@contextmanager
def failing_rename(number, kind):
    """Within the block the `number`-th rename is slow, or done and then reported as failed; yields what is left."""
    replace, left = os.replace, [number]

    def call(source, target, **options):
        left[0] -= 1
        if left[0] == 0 and kind == "stale handle":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(target))
        replace(source, target, **options)
        if left[0] == 0 and kind == "sent twice":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        if kind == "slow":
            time.sleep(0.02)

    os.replace = call
    try:
        yield left
    finally:
        os.replace = replace


def unsteady_server(effort, seed, folder):
    """A server of files, as over NFS, that is slow, loses a handle, or gets a rename twice and says that it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    config, chance, tallies = small_config(*CONFIG), random.Random(seed), []
    with failing_rename(-1, "none") as left:
        expected = weights_of(small_run(folder / "whole"))
    count = -1 - left[0]
    for kind in ("sent twice", "stale handle", "slow"):
        tally = Tally(f"renames over a network: {kind}")
        for number in range(effort if kind != "slow" else 1):
            run, said = folder / "run", False
            with failing_rename(chance.randrange(count) + 1, kind):
                try:
                    train(config, run, device="cpu", quiet=True)
                except InputError:
                    said = True
            if said:
                train(config, run, device="cpu", quiet=True)
            good = weights_of(run) == expected and said == (kind == "stale handle") and not list(run.glob(".*"))
            tally.add(("said" if said else "survived") if good else "lost", f"case {number}: said {said}")
            shutil.rmtree(run)
        tallies.append(tally)
    return tallies


def clock_going_back(effort, seed, folder):
    """The clock of the machine goes back, or jumps ahead, between two starts of a run: nothing is lost."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = weights_of(small_run(folder / "whole"))
    tally = Tally("clock set between two starts")
    for number in range(effort):
        run = small_run(folder / "run", 2)
        shift = (-1) ** number * random.Random(f"{seed} {number}").choice([1, 3600, 10 ** 8])
        for path in [run, *run.rglob("*")]:
            about = path.lstat()
            os.utime(path, (about.st_atime + shift, about.st_mtime + shift), follow_symlinks=False)
        small_run(run)
        tally.add("survived" if weights_of(run) == expected else "lost", f"case {number}: {shift} s")
        shutil.rmtree(run)
    return [tally]


def many_files(effort, seed, folder):
    """Folders of thousands of files: all are found, in a time and a memory that grow as their number does."""
    tally, least, seconds, memory = Tally("files in a folder"), 1000 * effort, {}, {}
    for count in (least, 4 * least):
        place = folder / str(count)
        for number in range(count):
            path = place / f"c{number % 7}" / f"{number:06d}.mp4"
            if number < 7:
                path.parent.mkdir(parents=True)
            path.touch()
        began = time.process_time()
        found = len(open_clips(place, load_protocol("native"), quiet=True, workers=0))
        seconds[count] = time.process_time() - began
        tracemalloc.start()
        open_clips(place, load_protocol("native"), quiet=True, workers=0).close()
        memory[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        tally.add("survived" if found == count else "lost", f"{found} of {count}")
    each = (memory[4 * least] - memory[least]) / (3 * least)
    tally.add("survived" if each < 4000 else "lost", f"{each:.0f} bytes a file")
    slow = seconds[4 * least] > 8 * seconds[least] + 0.5
    tally.add("hang" if slow else "survived", f"{seconds}")
    return [tally]
