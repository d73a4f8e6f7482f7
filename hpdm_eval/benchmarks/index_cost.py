"""What a start of training costs with a million files: time and memory, by index and by looking at each file.

Every start is a process of its own. Files are empty and their entries made up: a start opens none of those that the
index knows.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpdm.config.data import DataConfig
from hpdm.data.index import OLD_NAME, OLD_VERSION, cache_files
from hpdm.data.indexing import folder_table
from hpdm.support.files import scratch_folder, write_json
from hpdm.support.progress import note, progress
from hpdm_eval.support.timing import memory_of_process

CLASSES = 1000
WORDS = "slowly a striped red disc rises over a wavy navy background while a small plain green square falls past it"
# kind of start: (settings of the data, whether it needs the files)
STARTS = {
    "index": ({}, False),
    "index, captions": ({"captions": "auto"}, False),
    "every file": ({"recheck": True, "index_limit": 10**9}, True),
    "every file, captions": ({"captions": "auto", "recheck": True, "index_limit": 10**9}, True),
}


def measure(rows: int, *, files: bool = True, quiet: bool = False) -> dict[str, Any]:
    """{kind of start: {"seconds", "fingerprint_seconds", "mib", "own_mib"}} with `rows` videos, a caption each.

    seconds: until the first clip could be asked for. mib: peak resident memory beyond what imports take; own_mib: that
    of it which processes on one machine do not share. Without `files` only what needs none is measured.
    """
    with scratch_folder("hpdm-index") as folder:
        root = Path(folder) / "videos"
        seconds = _make(root, rows, files, quiet)
        starts = {name: _start(root, settings) for name, (settings, needs) in STARTS.items() if files or not needs}
        sizes = {"index": cache_files(root)[0].stat().st_size, "captions": (root / "captions.jsonl").stat().st_size}
    return {"starts": starts, "bytes": sizes, "making_seconds": seconds}


def start(root: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """One start in this process."""
    from hpdm.data.loader import open_clips
    from hpdm.training.data import fingerprint_of

    before, own, began = memory_of_process()["now"], _own(), time.perf_counter()
    clips = open_clips(DataConfig(path=str(root), **settings), frames=16, height=64, width=64, seed=0, quiet=True)
    clips.source.job(clips.item(0), None)
    clips.source.conditions(clips.item(0))
    opened = time.perf_counter()
    print_of_data = fingerprint_of(clips)
    ended = time.perf_counter()
    memory = {"mib": (memory_of_process()["peak"] - before) / 2**20, "own_mib": (_own() - own) / 2**20}
    return {
        "seconds": opened - began,
        "fingerprint_seconds": ended - opened,
        "fingerprint": print_of_data,
        "videos": len(clips.source),
        **memory,
    }


def _start(root, settings):
    words = [sys.executable, "-m", __name__, str(root), json.dumps(settings)]
    environment = os.environ | {"XDG_CACHE_HOME": str(root.parent / "cache")}  # no index of another folder is found
    answer = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True, env=environment).stdout
    return json.loads(answer.splitlines()[-1])


def _own():
    """Memory of this process that no other shares, in bytes; 0 where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["RssAnon"].split()[0]) * 1024
    except (OSError, KeyError):
        return 0


def _make(root, rows, files, quiet):
    """Write empty files, the JSON index of earlier versions with made-up entries, captions, and the index from it."""
    root.mkdir(parents=True)
    entries, began = [], time.perf_counter()
    with (
        progress(total=rows, unit="file", description="making files", quiet=quiet) as bar,
        open(root / "captions.jsonl", "w", encoding="utf-8") as captions,
    ):
        for number in range(rows):
            path = f"class{number % CLASSES:04d}/video_{number:08d}.mp4"
            if number < CLASSES:
                (root / path).parent.mkdir()
            os.close(os.open(root / path, os.O_CREAT | os.O_WRONLY))
            frames = 60 + number % 500
            entries.append(
                {
                    "path": path,
                    "size": 0,
                    "mtime": (root / path).stat().st_mtime_ns,
                    "frames": frames,
                    "fps": 25.0,
                    "seconds": (frames - 0.5) / 25,
                    "even": True,
                    "height": 240,
                    "width": 320,
                }
            )
            captions.write(json.dumps({"path": path, "caption": f"video {number}: {WORDS}"}) + "\n")
            bar.update()
    write_json(root / OLD_NAME, {"version": OLD_VERSION, "videos": entries, "broken": []})
    entries.clear()
    note("making the index", quiet)
    made = time.perf_counter()
    table, opened = folder_table(root, quiet=True)
    assert opened == 0
    table.write(cache_files(root)[0])
    return {"files": made - began, "index": time.perf_counter() - made}


if __name__ == "__main__":
    print(json.dumps(start(Path(sys.argv[1]), json.loads(sys.argv[2]))))
