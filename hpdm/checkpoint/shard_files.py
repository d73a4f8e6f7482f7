"""The files of a sharded checkpoint, in which every process has saved the parts of tensors that it held.

    step-00001000/model.shards.json        weights: which part of which tensor is in which file
                  model-00000.safetensors  the parts of process 0, and so on
                  ema.shards.json          their average, ema-00000.safetensors ...
                  optimizer.shards.json    state of the optimizer, optimizer-00000.safetensors ...
                  trace-0.050.shards.json  averages for post-hoc EMA, where they are kept
                  training.pt              position in the run
                  config.yaml, manifest.json   as in every checkpoint

Nothing here is a pickle. Where a part lies in its tensor is also in the header of its file, under the key and in the
form of PyTorch's own safetensors storage, so that `torch.distributed.checkpoint.HuggingFaceStorageReader` reads them.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hpdm.support.errors import Damaged, InputError
from hpdm.support.files import read_json, sha256_file

KINDS = ("model", "ema", "optimizer")  # of every sharded checkpoint; traces for post-hoc EMA are further ones
INDEX_SUFFIX = ".shards.json"
PART_FILE = re.compile(r"(model|ema|optimizer|trace-0\.\d+)-\d{5,}\.safetensors")
_KIND = re.compile(r"trace-0\.\d+|[a-z]+")
PART_HEADER = "DCP_SHARDING_INFO"  # {name: {"saved_offsets": [...]}}, as PyTorch writes it
SAFETENSORS_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {str(kind).removeprefix("torch."): kind for kind in SAFETENSORS_NAMES}
LARGEST = 2**48  # numbers of a tensor


@dataclass(frozen=True, kw_only=True)
class Part:
    """A box of a tensor and the file that holds it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor of a sharded checkpoint; its parts cover it."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class Index:
    """What a `.shards.json` says."""

    path: Path
    kind: str
    step: int
    config: dict
    files: dict[str, dict]  # name → {"bytes", "sha256"}
    tensors: dict[str, Stored]


def index_file(kind: str) -> str:
    return kind + INDEX_SUFFIX


def is_sharded(folder: str | Path) -> bool:
    """Whether a checkpoint's folder is that of a sharded one."""
    return any((Path(folder) / index_file(kind)).is_file() for kind in KINDS)


def is_index(file: str | Path) -> bool:
    return str(file).endswith(INDEX_SUFFIX)


def kind_of_file(name: str) -> str | None:
    """What the file of an index or of parts is of; None for any other file."""
    if is_index(name):
        return name.removesuffix(INDEX_SUFFIX)
    match = PART_FILE.fullmatch(name)
    return match and match[1]


def part_name(kind: str, name: str) -> str:
    """What a tensor is called in the files of parts and within torch.distributed.checkpoint."""
    return f"{kind}.{name}"


def split_part_name(key: str) -> tuple[str, str]:
    """(kind, name) of a `part_name`."""
    match = _KIND.match(key)
    assert match is not None
    return match[0], key[match.end() + 1 :]


def index_content(kind: str, *, step: int, config: dict, files: dict[str, dict], tensors: "dict[str, Stored]") -> dict:
    """The JSON value of an index; files as in `Index`, tensors {name: `Stored`}."""
    return {
        "schema": 1,
        "weights": kind,
        "step": step,
        "config": config,
        "files": dict(sorted(files.items())),
        "tensors": {
            name: {
                "dtype": str(stored.dtype).removeprefix("torch."),
                "shape": list(stored.shape),
                "parts": [
                    {"file": part.file, "offsets": list(part.offsets), "sizes": list(part.sizes)}
                    for part in sorted(stored.parts, key=lambda part: part.offsets)
                ],
            }
            for name, stored in sorted(tensors.items())
        },
    }


def read_index(path: str | Path) -> Index:
    """The `Index` of a file; raises Damaged where it is none, or where parts do not make up their tensors."""
    path = Path(path)
    kind = path.name.removesuffix(INDEX_SUFFIX)
    try:
        content = read_json(path)
        files = {
            str(name): {"bytes": int(about["bytes"]), "sha256": str(about["sha256"])}
            for name, about in content["files"].items()
        }
        tensors = {str(name): _stored(about, files) for name, about in content["tensors"].items()}
        step, config = int(content["step"]), dict(content["config"])
        if content["weights"] != kind or not all(PART_FILE.fullmatch(name) for name in files):
            raise ValueError("it is of another kind")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Damaged(f"{path} is damaged: it lists no parts of tensors ({reason})") from error
    return Index(path=path, kind=kind, step=step, config=config, files=files, tensors=tensors)


def _stored(about, files):
    shape = _numbers(about["shape"])
    parts = tuple(
        Part(offsets=_numbers(part["offsets"]), sizes=_numbers(part["sizes"]), file=part["file"])
        for part in about["parts"]
    )
    inside = all(
        len(part.offsets) == len(part.sizes) == len(shape)
        and all(o + s <= n for o, s, n in zip(part.offsets, part.sizes, shape, strict=True))
        for part in parts
    )
    # Boxes that lie inside, begin at different places and have the volume of the whole; that they do not overlap was
    # seen to when they were saved.
    volume = sum(math.prod(part.sizes) for part in parts)
    apart = len({part.offsets for part in parts}) == len(parts)
    if not inside or not apart or volume != math.prod(shape) or volume > LARGEST:
        raise ValueError("parts do not make up their tensor")
    if unknown := next((part.file for part in parts if part.file not in files), None):
        raise ValueError(f"{unknown} is not among its files")
    return Stored(dtype=DTYPES[about["dtype"]], shape=shape, parts=parts)


def _numbers(values):
    if not all(type(value) is int and value >= 0 for value in values):
        raise ValueError("sizes are whole numbers")
    return tuple(values)


def write_tensors(
    path: str | Path,
    described: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    tensors: Any,
    metadata: dict[str, str],
) -> None:
    """Write a safetensors file, flushed to the disk, without a second copy of any tensor.

    described: {name: (dtype, shape)}; tensors: CPU tensors by name, each asked for when its turn comes; metadata:
    {text: text}. Not atomic. The library's own function first makes bytes of everything.
    """
    names = sorted(described, key=lambda name: (-described[name][0].itemsize, name))  # so that all are aligned
    header: dict[str, Mapping[str, object]] = {"__metadata__": metadata}
    place = 0
    for name in names:
        kind, shape = described[name]
        size = math.prod(shape) * kind.itemsize
        header[name] = {"dtype": SAFETENSORS_NAMES[kind], "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in names:
            file.write(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy())
        file.flush()
        os.fsync(file.fileno())


def check_parts(index: Index) -> None:
    """Compare the files of an index with their digests; raises Damaged. Reads every byte."""
    for name, about in index.files.items():
        path = index.path.with_name(name)
        try:
            whole = path.stat().st_size == about["bytes"] and sha256_file(path) == about["sha256"]
        except OSError as error:
            raise Damaged(f"{path} cannot be read: {error.strerror}") from error
        if not whole:
            raise Damaged(f"{path} is damaged: it differs from its checksum")


class ShardedWeights:
    """The tensors of an index by name, each put together from its parts when it is asked for."""

    def __init__(self, index: Index, opened: Callable[[str], Any]) -> None:
        self._index, self._opened = index, opened
        self.header = {"config": index.config, "step": index.step, "weights": index.kind}
        self.kind = index.kind

    def __iter__(self) -> Iterator[str]:
        return iter(self._index.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._index.tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        stored = self._index.tensors[name]
        whole = torch.empty(stored.shape, dtype=stored.dtype)
        for part in stored.parts:
            place = tuple(slice(o, o + s) for o, s in zip(part.offsets, part.sizes, strict=True))
            try:
                whole[place] = self._opened(part.file).get_tensor(part_name(self._index.kind, name)).reshape(part.sizes)
            except (SafetensorError, RuntimeError) as error:
                raise Damaged(f"{self._index.path.with_name(part.file)} is damaged: {name} is not as listed") from error
        return whole

    def shape(self, name: str) -> tuple[int, ...]:
        return self._index.tensors[name].shape

    def dtype(self, name: str) -> torch.dtype:
        return self._index.tensors[name].dtype


@contextmanager
def open_parts(index: Index) -> "Iterator[ShardedWeights]":
    """Context of the `ShardedWeights` of an index; its files stay open within the block."""
    files = {}
    with ExitStack() as stack:

        def opened(name):
            if name not in files:
                path = index.path.with_name(name)
                try:
                    files[name] = stack.enter_context(safe_open(path, framework="pt"))
                except (OSError, SafetensorError) as error:
                    raise InputError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
            return files[name]

        yield ShardedWeights(index, opened)
