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

from hpdm.sampling.writer import SamplesFolder
from hpdm.support.errors import InputError
from hpdm.support.files import write_json
from hpdm.training.loop import train
from hpdm_eval.clips.source import open_clips
from hpdm_eval.protocols import load_protocol
from tests.faults.killed import weights_of
from tests.faults.tally import CONFIG, Tally, small_run
from tests.support.small_training import small_config


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
            with failing_rename(chance.randrange(count) + 1 if number else count, kind):
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


class _Listing:
    """What `os.scandir` gives, without some of the names."""

    def __init__(self, entries, hidden):
        self.entries, self.hidden = entries, hidden

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __iter__(self):
        return self

    def __next__(self):
        while (entry := next(self.entries)).name in self.hidden:
            pass
        return entry

    def close(self):
        self.entries.close()


@contextmanager
def stale_listings(folder, hidden, ghosts):
    """Within the block listings of a folder leave out the names `hidden` and hold those of `ghosts`, which are gone.

    A path that is asked for by its name is seen as it is, as by a client that keeps listings but not what they list.
    """
    listdir, scandir = os.listdir, os.scandir

    def is_it(path):
        return not isinstance(path, int) and os.path.realpath(path) == os.path.realpath(folder)

    def stale_listdir(path="."):
        names = listdir(path)
        return [name for name in names if name not in hidden] + sorted(ghosts) if is_it(path) else names

    def stale_scandir(path="."):
        return _Listing(scandir(path), hidden) if is_it(path) else scandir(path)

    os.listdir, os.scandir = stale_listdir, stale_scandir
    try:
        yield
    finally:
        os.listdir, os.scandir = listdir, scandir


def stale_views(effort, seed, folder):
    """A client that lists a folder as it was some time ago: training and sampling go on and lose nothing."""
    from hpdm.commands.sample import sample

    folder.mkdir(parents=True, exist_ok=True)
    config, chance = small_config(*CONFIG), random.Random(seed)
    whole = small_run(folder / "whole")
    expected, tallies = weights_of(whole), [Tally("old listing of a run"), Tally("old listing of samples")]

    def make(out, number):
        sample.main(
            [
                "--checkpoint",
                str(whole),
                "--num",
                str(number),
                "--out",
                str(out),
                "--device",
                "cpu",
                "--quiet",
                "--format",
                "npy",
                "--steps",
                "2,1",
                "--batch",
                "2",
            ],
            standalone_mode=False,
        )
        return {path.name: path.read_bytes() for path in out.glob("*.npy")}

    videos = make(folder / "videos", 6)
    for number in range(effort):
        run, out = small_run(folder / "run", 2), folder / "out"
        names = sorted(os.listdir(run))
        hidden, ghosts = set(chance.sample(names, chance.randrange(len(names) + 1))), {"step-00000001", ".x.part"}
        with stale_listings(run, hidden, ghosts):
            try:
                train(config, run, device="cpu", quiet=True)
                said = ""
            except InputError as error:
                said = str(error)
        if said:
            train(config, run, device="cpu", quiet=True)
        tallies[0].add(
            ("said" if said else "survived") if weights_of(run) == expected else "lost",
            f"case {number}: without {sorted(hidden)}: {said}",
        )
        names = sorted(make(out, 4))
        with stale_listings(out, set(chance.sample(names, chance.randrange(len(names) + 1))), set()):
            make(out, 6)
        tallies[1].add("survived" if make(out, 6) == videos else "lost", f"case {number}")
        shutil.rmtree(run)
        shutil.rmtree(out)
    return tallies


def clock_going_back(effort, seed, folder):
    """The clock of the machine goes back, or jumps ahead, between two starts of a run: nothing is lost."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = weights_of(small_run(folder / "whole"))
    tally = Tally("clock set between two starts")
    for number in range(effort):
        run = small_run(folder / "run", 2)
        shift = (-1) ** number * random.Random(f"{seed} {number}").choice([1, 3600, 10**8])
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
