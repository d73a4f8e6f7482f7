"""Processes agree on a sharded checkpoint: its files are shared out for checking, and a damaged one is left by all."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hpdm.checkpoint import folder as checkpoint
from hpdm.checkpoint.folder import CONFIG_FILE, STATE_FILE, sha256_file, write_manifest
from hpdm.checkpoint.shard_files import KINDS, Part, Stored, index_content, index_file, write_tensors
from hpdm.config import config_to_dict, save_config
from hpdm.support.errors import InputError
from hpdm.support.files import write_json
from hpdm.training import resume
from hpdm.training.resume import agree_on_checkpoint
from tests.support.small_training import small_config

PROCESSES = 3


class Member:
    """A thread in the place of one of `Processes`."""

    world_size = PROCESSES

    def __init__(self, rank, slots, barrier):
        self.rank, self.first, self._slots, self._barrier = rank, rank == 0, slots, barrier

    def of_all(self, value):
        self._slots[self.rank] = value
        self._barrier.wait(60)
        values = list(self._slots)
        self._barrier.wait(60)
        return values

    def from_first(self, value):
        return self.of_all(value)[0]


def write_step(folder, step):
    """A sharded checkpoint of one tensor of each kind."""
    folder.mkdir(parents=True)
    config = small_config()
    known = {}
    for kind in KINDS:
        files, parts = {}, []
        for rank in range(PROCESSES):
            name = f"{kind}-{rank:05d}.safetensors"
            write_tensors(
                folder / name,
                {f"{kind}.a": (torch.float32, (1, 2))},
                {f"{kind}.a": torch.full((1, 2), float(step + rank))},
                {},
            )
            files[name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
            parts.append(Part(offsets=(rank, 0), sizes=(1, 2), file=name))
        tensors = {"a": Stored(dtype=torch.float32, shape=(PROCESSES, 2), parts=tuple(parts))}
        write_json(
            folder / index_file(kind),
            index_content(kind, step=step, config=config_to_dict(config), files=files, tensors=tensors),
        )
        known |= files
    (folder / STATE_FILE).write_bytes(b"state")
    save_config(config, folder / CONFIG_FILE)
    write_manifest(folder, step, [STATE_FILE, CONFIG_FILE, *map(index_file, KINDS)], known)


@pytest.fixture
def run(tmp_path):
    for step in (1, 2):
        write_step(tmp_path / "run" / f"step-{step:08d}", step)
    (tmp_path / "run" / "latest").symlink_to("step-00000002")
    return tmp_path / "run"


def agree(runs):
    """What every process makes of its folder: a path or the text of an InputError."""
    slots, barrier = [None] * PROCESSES, threading.Barrier(PROCESSES)

    def one(rank):
        try:
            return agree_on_checkpoint(runs[rank], small_config(), False, Member(rank, slots, barrier), quiet=True)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(PROCESSES) as pool:
        return list(pool.map(one, range(PROCESSES)))


def test_every_file_is_read_by_one_process(run, monkeypatch):
    read = []
    monkeypatch.setattr(checkpoint, "sha256_file", lambda path: read.append(path.name) or sha256_file(path))
    assert agree([run] * PROCESSES) == [run / "step-00000002"] * PROCESSES
    assert len(read) == len(set(read)) == 3 * PROCESSES + 3 + 2


@pytest.mark.parametrize("name", ["model-00001.safetensors", "ema-00002.safetensors", "optimizer.shards.json"])
def test_what_one_finds_damaged_is_left_by_all(run, name):
    content = bytearray((run / "step-00000002" / name).read_bytes())
    content[-3] ^= 4
    (run / "step-00000002" / name).write_bytes(content)
    assert agree([run] * PROCESSES) == [run / "step-00000001"] * PROCESSES


def test_another_folder_ends_it_on_all(run, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "PATIENCE", 0.1)
    other = shutil.copytree(run, tmp_path / "other", symlinks=True)
    shutil.rmtree(other / "step-00000002")
    said = agree([run, run, other])
    assert said == [f"process 2 sees another folder {other} than process 0: there is no step-00000002 on process 2"] * 3
    write_step(other / "step-00000002", 7)
    said = agree([run, other, run])
    assert len(set(said)) == 1 and "process 1 sees another folder" in said[0] and "another step-00000002" in said[0]
    said = agree([tmp_path / "new", run, tmp_path / "new"])
    assert len(set(said)) == 1 and "there is no checkpoint on process 0, step-00000002 on process 1" in said[0]
