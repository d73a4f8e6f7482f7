"""Saving and loading sharded checkpoints through torch.distributed.checkpoint (DCP).

DCP plans which process writes which part of which tensor, each once, and on loading reads of every part only what a
process needs, whatever their number is then. Where the bytes go is ours: DCP's own storage describes a checkpoint by a
pickle, which runs code when it is read; its safetensors storage, of later versions of torch, makes one string of all
that a process holds and has no checksums. See `hpdm.checkpoint.shard_files` for the files.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from hpdm.checkpoint.folder import check_traces, forget_pages, trace_kind
from hpdm.checkpoint.shard_files import (
    KINDS,
    PART_HEADER,
    Index,
    Part,
    Stored,
    index_file,
    part_name,
    read_index,
    split_part_name,
    write_tensors,
)
from hpdm.support.errors import Damaged, InputError
from hpdm.support.files import sha256_file
from hpdm.training.ema import local

if TYPE_CHECKING:
    from hpdm.training.ema import Average, PowerEMA


PATIENCE = 30.0  # seconds until a folder that one node made must be seen by all


@dataclass(frozen=True, kw_only=True)
class Written:
    """Where a part went: the storage data of a `WriteResult`."""

    file: str
    bytes: int
    sha256: str


class ShardWriter(StorageWriter, BlockingAsyncStager):
    """Storage of DCP that writes parts to safetensors files, one of each kind per process, into a folder that is there.

    kinds: of the tensors, each of which gets an index. `finish(indexes)` is called on the first process when the files of all are on the disk, with {kind: (files,
    tensors)} as in `Index`; what it raises, all processes raise. With `read_back` every process reads its files from
    the disk again and compares. Raises InputError where a process does not see the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        finish: Callable[[dict], None],
        *,
        kinds: Sequence[str] = KINDS,
        read_back: bool = False,
    ) -> None:
        BlockingAsyncStager.__init__(self)
        self.folder, self._finish, self._kinds, self.read_back = Path(folder), finish, kinds, read_back
        self._copies = {}

    def stage(self, state_dict: Any) -> Any:
        """Copy what this process holds to host memory. What is returned, and goes on changing, serves to plan with."""
        self._copies = {key: local(tensor).detach().to("cpu", copy=True) for key, tensor in state_dict.items()}
        return state_dict

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return [replace(plan, storage_data=rank) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: Any) -> Future:
        _wait_for(self.folder, plan.storage_data)
        by_kind = {}
        for item in plan.items:
            by_kind.setdefault(split_part_name(item.index.fqn)[0], []).append(item)
        results = []
        for kind, items in by_kind.items():
            results += self._write(f"{kind}-{plan.storage_data:05d}.safetensors", items)
        future = Future()
        future.set_result(results)
        return future

    def _write(self, name, items):
        items = [item for item in items if 0 not in item.tensor_data.chunk.sizes]  # more processes than rows
        if not items:
            return []
        tensors = {item.index.fqn: self._copies.pop(item.index.fqn) for item in items}
        for item in items:
            assert tensors[item.index.fqn].shape == item.tensor_data.chunk.sizes, "a process holds one part of a tensor"
        places = {item.index.fqn: {"saved_offsets": list(item.tensor_data.chunk.offsets)} for item in items}
        path = self.folder / name
        described = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
        write_tensors(path, described, tensors, {PART_HEADER: json.dumps(places, sort_keys=True)})
        os.chmod(path, self.folder.stat().st_mode & 0o666)  # it may be read by whom its folder may
        digest = sha256_file(path)
        if self.read_back:
            forget_pages(path)
            if sha256_file(path) != digest:
                raise InputError(f"{path} is not on the disk as it was written; the disk may be failing")
        written = Written(file=name, bytes=path.stat().st_size, sha256=digest)
        return [
            WriteResult(index=item.index, size_in_bytes=tensors[item.index.fqn].nbytes, storage_data=written)
            for item in items
        ]

    def finish(self, metadata: Metadata, results: list) -> None:
        files, parts = {kind: {} for kind in self._kinds}, {}
        for result in (result for of_process in results for result in of_process):
            kind, name = split_part_name(result.index.fqn)
            written = result.storage_data
            files[kind][written.file] = {"bytes": written.bytes, "sha256": written.sha256}
            parts[kind, name, tuple(result.index.offset or ())] = written.file
        tensors = {kind: {} for kind in self._kinds}
        for key, about in metadata.state_dict_metadata.items():
            kind, name = split_part_name(key)
            tensors[kind][name] = Stored(
                dtype=about.properties.dtype,
                shape=tuple(about.size),
                parts=tuple(
                    Part(
                        offsets=tuple(chunk.offsets),
                        sizes=tuple(chunk.sizes),
                        file=parts[kind, name, tuple(chunk.offsets)],
                    )
                    for chunk in about.chunks
                    if 0 not in chunk.sizes
                ),
            )
        self._finish({kind: (files[kind], tensors[kind]) for kind in self._kinds})

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return isinstance(checkpoint_id, str | os.PathLike)


def _wait_for(folder, rank):
    """Raise InputError where a folder that the first process has made does not appear here."""
    deadline = time.monotonic() + PATIENCE
    while not folder.is_dir():
        if time.monotonic() > deadline:
            raise InputError(
                f"process {rank} does not see {folder}, in which all processes save their parts: name a "
                f"folder that all nodes share"
            )
        time.sleep(0.1)


class ShardReader(StorageReader):
    """Storage of DCP that reads the files of a sharded checkpoint, given its {kind: `Index`}."""

    def __init__(self, indexes: dict[str, Index]) -> None:
        self._folder = next(iter(indexes.values())).path.parent
        self._tensors = {
            part_name(kind, name): stored for kind, index in indexes.items() for name, stored in index.tensors.items()
        }

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        described, places = {}, {}
        for key, stored in self._tensors.items():
            chunks = [
                ChunkStorageMetadata(offsets=torch.Size(p.offsets), sizes=torch.Size(p.sizes)) for p in stored.parts
            ]
            described[key] = TensorStorageMetadata(
                properties=TensorProperties(dtype=stored.dtype), size=torch.Size(stored.shape), chunks=chunks
            )
            places |= {MetadataIndex(key, p.offsets): p.file for p in stored.parts}
        return Metadata(state_dict_metadata=described, storage_data=places)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._places = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: Any) -> Future:
        by_file = {}
        for item in plan.items:
            by_file.setdefault(self._places[item.storage_index], []).append(item)
        for name, items in by_file.items():
            try:
                with safe_open(self._folder / name, framework="pt") as opened:
                    for item in items:
                        _read(opened, item, planner)
            except (OSError, SafetensorError) as error:
                raise Damaged(f"{self._folder / name} is damaged: {' '.join(str(error).split())[:200]}") from error
        future = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return isinstance(checkpoint_id, str | os.PathLike)


def _read(opened, item, planner):
    key = item.storage_index.fqn
    wanted = tuple(slice(o, o + n) for o, n in zip(item.storage_offsets, item.lengths, strict=True))
    value = opened.get_slice(key)[wanted] if wanted else opened.get_tensor(key)
    target = planner.resolve_tensor(item).detach()
    if target.shape != value.shape:
        raise Damaged(f"a part of {key} is {list(value.shape)}, listed as {list(target.shape)}")
    target.copy_(value)
    planner.commit_tensor(item, target)


def averages_by_kind(ema: "Average", traces: "Sequence[PowerEMA]" = ()) -> dict:
    """{kind: average} of the average that is sampled from and of the traces for post-hoc EMA."""
    return {"ema": ema} | {trace_kind(trace.sigma_rel): trace for trace in traces}


def averages_state(averages: "dict[str, Average]") -> dict[str, torch.Tensor]:
    """{"kind.name": tensor} of {kind: average}, as this process holds them."""
    return {
        part_name(kind, name): tensor for kind, average in averages.items() for name, tensor in average.named_averages()
    }


def sharded_state(
    network: nn.Module, ema: "Average", optimizer: torch.optim.Optimizer, traces: "Sequence[PowerEMA]" = ()
) -> dict[str, torch.Tensor]:
    """{"kind.name": tensor} of all that training changes, as this process holds it."""
    state = {part_name("model", name): p.detach() for name, p in network.named_parameters()}
    state |= averages_state(averages_by_kind(ema, traces))
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            state[part_name("optimizer", f"{name}.{key}")] = value.detach()
    return state


def load_shards(
    folder: str | Path,
    *,
    network: nn.Module,
    ema: "Average",
    optimizer: torch.optim.Optimizer,
    traces: "Sequence[PowerEMA]" = (),
) -> None:
    """Put a sharded checkpoint's tensors into network, averages and optimizer, sharded or not, in place.

    Every process must call this, and reads what it needs. Raises InputError where they do not fit, and for traces that
    the checkpoint does not have.
    """
    averages = averages_by_kind(ema, traces)
    check_traces(folder, [kind for kind in averages if not (Path(folder) / index_file(kind)).is_file()])
    indexes = {kind: read_index(Path(folder) / index_file(kind)) for kind in (*KINDS, *averages)}
    state = {}
    named_sets = {"model": network.named_parameters()} | {
        k: average.named_averages() for k, average in averages.items()
    }
    for kind, named in named_sets.items():
        named = {name: tensor.detach() for name, tensor in named}
        _compare(indexes[kind], named)
        state |= {part_name(kind, name): tensor for name, tensor in named.items()}
    parameters = dict(network.named_parameters())
    fresh = {name: {} for name in parameters}
    for full, stored in indexes["optimizer"].tensors.items():
        name, _, key = full.rpartition(".")
        if name not in parameters:
            raise InputError(f"{indexes['optimizer'].path} does not fit this optimizer: {name} is no parameter")
        fresh[name][key] = state[part_name("optimizer", full)] = _empty(stored, parameters[name])
    try:
        dcp.load(state, storage_reader=ShardReader(indexes))
    except CheckpointException as error:
        raise explain(error, f"{folder} could not be loaded") from error
    for name, parameter in parameters.items():
        optimizer.state[parameter] = fresh[name]


def _compare(index, named):
    if unlike := sorted(named.keys() ^ index.tensors.keys()):
        raise InputError(f"{index.path} does not belong to this network: {unlike[0]} is in one and not in the other")
    for name, tensor in named.items():
        if (found := index.tensors[name].shape) != tuple(tensor.shape):
            raise InputError(f"{index.path}: {name} is {list(found)}, the network has {list(tensor.shape)}")


def _empty(stored, parameter):
    """Room for a tensor of the optimizer: laid out as its parameter where it has the same shape."""
    if stored.shape == tuple(parameter.shape):
        return torch.zeros_like(parameter, dtype=stored.dtype, requires_grad=False)
    return torch.zeros(stored.shape, dtype=stored.dtype)


def explain(error: CheckpointException, what: str) -> Exception:
    """What one process met, as an InputError where it is one; DCP has all processes raise it."""
    rank, (cause, _) = min(error.failures.items())
    if isinstance(cause, InputError):
        return cause
    return SaveFailed(f"{what}: process {rank} met {type(cause).__name__}: {' '.join(str(cause).split())[:300]}")


class SaveFailed(Exception):
    """A sharded checkpoint could not be saved, or loaded, because of something other than the input or the disk."""
