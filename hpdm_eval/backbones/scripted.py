"""The tensors of a TorchScript file, read without running the program that is in it.

The file is a zip archive: `data.pkl` describes the module tree, `data/N` hold the numbers. The description is a pickle;
of it only plain values, module objects (kept as their attributes) and tensors are accepted, so nothing is executed.
"""

import os
import pickle
import zipfile
from collections.abc import Collection

import torch

from hpdm.support.errors import InputError

STORAGES = {
    f"{name}Storage": dtype
    for name, dtype in (
        ("Float", torch.float32),
        ("Double", torch.float64),
        ("Half", torch.float16),
        ("BFloat16", torch.bfloat16),
        ("Long", torch.int64),
        ("Int", torch.int32),
        ("Short", torch.int16),
        ("Char", torch.int8),
        ("Byte", torch.uint8),
        ("Bool", torch.bool),
    )
}
MOST_BYTES = 4 << 30
DEEPEST = 50


class _Module:
    """An object of a class that the archive defines: its attributes alone."""

    def __init__(self, *arguments):
        self.attributes = {}

    def __setstate__(self, state):
        if isinstance(state, dict):
            self.attributes = state


class _Reader(pickle.Unpickler):
    def __init__(self, file, archive, root):
        super().__init__(file)
        self.archive, self.root, self.storages, self.bytes = archive, root, {}, 0

    def find_class(self, module, name):
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch.jit._pickle":
            return lambda value, *others: value
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"{module}.{name} is not read")

    def persistent_load(self, identity):
        _, dtype, key, _, count = identity
        if key not in self.storages:
            info = self.archive.getinfo(f"{self.root}/data/{key}")
            self.bytes += info.file_size
            if self.bytes > MOST_BYTES or not isinstance(dtype, torch.dtype):
                raise pickle.UnpicklingError("too many numbers")
            data = torch.frombuffer(bytearray(self.archive.read(info)), dtype=dtype)
            if len(data) != count:
                raise pickle.UnpicklingError(f"storage {key} has {len(data)} numbers of {count}")
            self.storages[key] = data
        return self.storages[key]


def _tensor(storage, offset, size, stride, *others):
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if offset < 0 or any(n < 0 for n in (*size, *stride)) or (0 not in size and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor reaches beyond its numbers")
    return storage.as_strided(size, stride, offset)


def read_scripted(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Name → tensor of all modules of a TorchScript file, as its `state_dict` has them, buffers included.

    Raises InputError for a file that holds anything else than modules, tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
            with archive.open(name) as file:
                top = _Reader(file, archive, name.partition("/")[0]).load()
            found = {}
            _collect(top, "", found, 0)
    except Exception as error:  # damaged archives raise nearly anything
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: its tensors cannot be read without running the program ({line})") from error
    return found


def without_prefix(state: dict[str, torch.Tensor], names: Collection[str]) -> dict[str, torch.Tensor]:
    """The tensors whose names end in those of `names`, under these, where one prefix does it for all; else `state`."""
    first = next(iter(names))
    for name in state:
        prefix = name.removesuffix(first)
        if name.endswith(first) and all(prefix + other in state for other in names):
            return {other: state[prefix + other] for other in names}
    return state


def _collect(value, prefix, found, depth):
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, torch.Tensor):
        found[prefix] = value
    elif isinstance(value, _Module):
        for name, part in value.attributes.items():
            _collect(part, f"{prefix}.{name}" if prefix else str(name), found, depth + 1)
