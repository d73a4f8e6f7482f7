"""Checkpoints of a running training: whole ones while it waits, sharded ones while it goes on.

A sharded checkpoint is copied to host memory, and written from there by a thread of every process. The next one, and
the end of the run, wait for it. It appears under its name, and `latest` moves, when the parts of all processes are on
the disk.
"""

import os
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from hpdm.checkpoint import folder as checkpoint
from hpdm.checkpoint.folder import CONFIG_FILE, STATE_FILE, step_folder
from hpdm.checkpoint.shard_files import KINDS, index_content, index_file, is_sharded
from hpdm.config import config_to_dict, save_config
from hpdm.support.errors import InputError, WriteError
from hpdm.support.files import atomic_folder, checked_file, no_room, sha256_file, write_json
from hpdm.support.progress import note
from hpdm.training.provenance import PROVENANCE_FILE
from hpdm.training.sharded import (
    PATIENCE,
    SaveFailed,
    ShardWriter,
    averages_by_kind,
    averages_state,
    explain,
    load_shards,
    sharded_state,
)
from hpdm.training.snapshots import save_snapshot, snapshot_folder

if TYPE_CHECKING:
    from hpdm.config import Config
    from hpdm.training.distributed import Processes
    from hpdm.training.ema import Average, PowerEMA


def load_training_state(
    folder: str | Path,
    *,
    network: nn.Module,
    ema: "Average",
    optimizer: torch.optim.Optimizer,
    traces: "Sequence[PowerEMA]" = (),
) -> dict:
    """`hpdm.checkpoint.folder.load_training_state`, of a sharded checkpoint as well."""
    if not is_sharded(folder):
        return checkpoint.load_training_state(folder, network=network, ema=ema, optimizer=optimizer, traces=traces)
    state = checkpoint.read_state(Path(folder) / STATE_FILE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is ")  # one process, as intended
        load_shards(folder, network=network, ema=ema, optimizer=optimizer, traces=traces)
    checkpoint.set_group_steps(optimizer, state, Path(folder) / STATE_FILE)
    return {"step": state["step"], "progress": state["progress"]}


class Saver:
    """Saves a run's checkpoints; a context, at whose end the last of them is on the disk.

    Every process has one and calls `save` at the same steps. Whether checkpoints are sharded follows from the network.
    """

    def __init__(
        self,
        run: str | Path,
        process: "Processes",
        *,
        network: nn.Module,
        ema: "Average",
        optimizer: torch.optim.Optimizer,
        config: "Config",
        traces: "Sequence[PowerEMA]" = (),
    ) -> None:
        self.run, self.process, self.config = Path(run), process, config
        self._parts = {"network": network, "ema": ema, "optimizer": optimizer, "traces": traces}
        self._averages = averages_by_kind(ema, traces)
        self.sharded = any(isinstance(p, DTensor) for p in network.parameters())
        # The thread that saves must not talk in a group in which training talks.
        self._group = dist.new_group(backend="gloo") if self.sharded and process.world_size > 1 else None
        self._pending: Future | None = None
        self._folder: Path | None = None
        self._temporary: ExitStack | None = None

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.wait()
        except (Exception, CheckpointException) as second:
            if error is None:
                raise
            note(str(second))
        finally:
            if self._group is not None:
                with suppress(Exception):
                    dist.destroy_process_group(self._group)

    def check_folder(self) -> None:
        """Raise InputError on all processes where one cannot see the run's folder, into which all will write."""
        if self._group is None:
            return
        file = self.run / PROVENANCE_FILE  # has a line with the time of this start
        expected = self.process.from_first(sha256_file(file) if self.process.first else None)
        deadline, trouble = time.monotonic() + PATIENCE, None
        while not (file.is_file() and sha256_file(file) == expected):
            if time.monotonic() > deadline:
                trouble = (
                    f"process {self.process.rank} sees another folder {self.run} than process 0: every process of "
                    f"a sharded run saves its part there, so name one that all nodes share"
                )
                break
            time.sleep(0.2)
        if found := next(filter(None, self.process.of_all(trouble)), None):
            raise InputError(found)

    def save(self, step: int, progress: dict, keep: int | None = None) -> None:
        """Save the state after `step` steps; see `save_checkpoint` for the rest.

        A sharded checkpoint is only begun, and what the one before it met is raised.
        """
        if not self.sharded:
            checkpoint.save_checkpoint(
                self.run,
                step=step,
                **self._parts,
                config=self.config,
                progress=progress,
                first=self.process.first,
                keep=keep,
            )
            return
        self.wait()
        self._folder = step_folder(self.run, step)
        temporary = Path(self.process.agreed(lambda: self._prepare(step, progress)))
        writer = ShardWriter(
            temporary,
            lambda indexes: self._finish(temporary, step, keep, indexes),
            kinds=tuple(dict.fromkeys([*KINDS, *self._averages])),
            read_back=keep is not None,
        )
        self._pending = dcp.async_save(sharded_state(**self._parts), storage_writer=writer, process_group=self._group)

    def save_snapshot(self, step: int) -> None:
        """Write the averages after `step` steps beside the checkpoints, see `hpdm.training.snapshots`.

        Where training is sharded every process writes its part, and training waits.
        """
        if not self.sharded:
            save_snapshot(
                self.run,
                step=step,
                ema=self._parts["ema"],
                traces=self._parts["traces"],
                config=self.config,
                first=self.process.first,
            )
            return
        self.wait()
        self._folder = snapshot_folder(self.run, step)
        temporary = Path(self.process.agreed(self._open_folder))
        writer = ShardWriter(
            temporary, lambda indexes: self._finish_snapshot(temporary, step, indexes), kinds=tuple(self._averages)
        )
        self._pending = dcp.async_save(averages_state(self._averages), storage_writer=writer, process_group=self._group)
        self.wait()

    def failed(self) -> bool:
        """Whether the checkpoint in the making is known to have failed; `wait` then raises why."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def wait(self) -> None:
        """Return when the last checkpoint is on the disk.

        Raises WriteError or another InputError where its place is at fault, and SaveFailed otherwise.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        try:
            pending.result()
        except (Exception, CheckpointException) as error:
            if self._temporary is not None:
                with suppress(Exception):
                    self._temporary.__exit__(type(error), error, error.__traceback__)
            raise self._reason(error) from error
        finally:
            self._temporary = None

    def _open_folder(self, fill=lambda temporary: None):
        """The temporary folder, with the configuration and what `fill(folder)` puts into it."""
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_folder(self._folder))
            fill(temporary)
            save_config(self.config, temporary / CONFIG_FILE)
            self._temporary = stack.pop_all()
        return str(temporary)

    def _prepare(self, step, progress):
        """The temporary folder, with what is small: it is as it is now, while training goes on."""
        groups = [group.get("step") for group in self._parts["optimizer"].param_groups]

        def fill(temporary):
            with checked_file(temporary / STATE_FILE) as file:
                torch.save({"optimizer": {}, "group_steps": groups, "step": step, "progress": progress}, file)

        return self._open_folder(fill)

    def _finish(self, temporary, step, keep, indexes):
        """On the first process, when all parts are on the disk: the indexes, the manifest, the names."""
        with _plain_errors(self._folder):
            self._index(temporary, step, indexes, [STATE_FILE, CONFIG_FILE])
            self._temporary.close()
            checkpoint.point_latest(self.run, self._folder.name)
            if keep:
                checkpoint.delete_all_but(self.run, self._folder, step, keep, whole=True)

    def _finish_snapshot(self, temporary, step, indexes):
        """The same of a snapshot, which no link points to."""
        with _plain_errors(self._folder):
            self._index(temporary, step, indexes, [CONFIG_FILE])
            self._temporary.close()

    def _index(self, temporary, step, indexes, others):
        """Write the indexes of the parts, and the manifest of these and `others`."""
        known = {}
        for kind, (files, tensors) in indexes.items():
            for name, about in files.items():
                _wait_for_size(temporary / name, about["bytes"])
            content = index_content(kind, step=step, config=config_to_dict(self.config), files=files, tensors=tensors)
            write_json(temporary / index_file(kind), content)
            known |= files
        checkpoint.write_manifest(temporary, step, [*others, *(index_file(kind) for kind in indexes)], known)

    def _reason(self, error):
        what = f"{self._folder.name} of {self.run} could not be saved"
        if not isinstance(error, CheckpointException):
            return SaveFailed(f"{what}: {' '.join(str(error).split())[:300] or type(error).__name__}")
        for cause, _ in error.failures.values():
            if (number := no_room(cause)) is not None:
                return checkpoint.no_room_for(self.run, self._folder, number)
        return explain(error, what)


@contextmanager
def _plain_errors(folder):
    """A WriteError would not survive the way to the other processes."""
    try:
        yield
    except WriteError as error:
        raise OSError(error.errno, os.strerror(error.errno), str(folder)) from None


def _wait_for_size(path, size):
    """Raise InputError where the file of another process does not appear here in its full length."""
    deadline = time.monotonic() + PATIENCE
    while not (path.is_file() and path.stat().st_size == size):
        if time.monotonic() > deadline:
            raise InputError(
                f"process 0 does not see {path.name} in {path.parent} as another process wrote it: name a "
                f"folder that all nodes share"
            )
        time.sleep(0.1)
