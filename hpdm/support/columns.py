"""Tables with millions of rows as one file of columns, memory-mapped: opening it takes no time and no memory.

The file is in the safetensors format, so any safetensors library reads it and nothing in it can run code. A column of
text is two arrays: NAME.bytes, all rows one after the other in UTF-8, and NAME.ends, where each row ends. What is said
about the table as a whole is JSON in the file's metadata.
"""

import json
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpdm.support.files import atomic_file, parse_json

DTYPES = {"BOOL": "?", "U8": "u1", "I32": "<i4", "I64": "<i8", "U64": "<u8", "F64": "<f8"}
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
MOST_HEADER = 64 << 20  # bytes; more is no header
AT_ONCE = 16_384  # rows that are decoded together
BYTES, ENDS = ".bytes", ".ends"
ABOUT = "hpdm"


class DamagedTable(ValueError):
    """A file that is no table of columns, or not all of one."""


class Texts(Sequence):
    """Strings as two arrays; decoded when they are asked for, so that they may lie in a file.

    bytes: uint8 [all bytes], ends: int64 [n]. File names that are not UTF-8 come back as Python shows them.
    """

    def __init__(self, content: np.ndarray, ends: np.ndarray) -> None:
        self.bytes, self.ends = content, ends

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Texts":
        """Texts of any iterable of strings."""
        content, ends = bytearray(), []
        for text in strings:
            content += text.encode("utf-8", "surrogateescape")
            ends.append(len(content))
        return cls(np.frombuffer(bytes(content), np.uint8), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        begin = int(self.ends[row - 1]) if row else 0
        return _decoded(self.bytes[begin : int(self.ends[row])].tobytes())

    def __iter__(self) -> Iterator[str]:
        begin = 0
        for first in range(0, len(self), AT_ONCE):
            ends = np.asarray(self.ends[first : first + AT_ONCE]).tolist()
            block, origin = self.bytes[begin : ends[-1]].tobytes(), begin
            for end in ends:
                yield _decoded(block[begin - origin : end - origin])
                begin = end

    def lengths(self) -> np.ndarray:
        """Bytes of each row, int64 [n]."""
        return np.diff(self.ends, prepend=0)

    def chosen(self, rows: np.ndarray) -> Iterator[str]:
        """The strings of `rows`, an ascending array, one after the other; decoded in blocks where many are chosen."""
        if 4 * len(rows) < len(self):
            yield from (self[int(row)] for row in rows)
            return
        wanted = np.zeros(len(self), bool)
        wanted[rows] = True
        for first, text in zip(_flags(wanted), self, strict=True):
            if first:
                yield text

    def place(self, text: str, first: int = 0) -> int:
        """Number of the first row from `first` on that is not before `text`; rows must be sorted."""
        return bisect_left(self, text, lo=first)


def write_columns(path: str | Path, columns: Mapping[str, Any], about: Any) -> None:
    """Write `columns`, name → array [n] or Texts, and the JSON-able `about`, atomically. Raises WriteError."""
    arrays = {}
    for name, column in columns.items():
        parts = {name + BYTES: column.bytes, name + ENDS: column.ends} if isinstance(column, Texts) else {name: column}
        arrays |= {key: np.asarray(array, np.asarray(array).dtype.newbyteorder("<")) for key, array in parts.items()}
    # Wide elements first, so that each array is aligned.
    ordered = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Mapping[str, object]] = {"__metadata__": {ABOUT: json.dumps(about)}}
    place = 0
    for name in ordered:
        array = arrays[name]
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [place, place + array.nbytes],
        }
        place += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in ordered:
            array = np.ascontiguousarray(arrays[name])
            if array.size:
                file.write(array.data.cast("B"))


def read_columns(path: str | Path) -> tuple[dict[str, Any], Any]:
    """(columns, about) of a file of `write_columns`, memory-mapped. Raises OSError and DamagedTable."""
    path = Path(path)
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= MOST_HEADER:
            raise DamagedTable(f"{path} is no table of columns")
        try:
            header = parse_json(file.read(length))
            about = parse_json(header.pop("__metadata__")[ABOUT])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedTable(f"{path} is no table of columns") from error
        content = np.memmap(file, np.uint8, mode="r", offset=8 + length) if file.read(1) else np.zeros(0, np.uint8)
    arrays = {}
    for name, entry in header.items():
        try:
            begin, end = entry["data_offsets"]
            dtype, (count,) = np.dtype(DTYPES[entry["dtype"]]), entry["shape"]
            if not 0 <= begin <= end <= len(content) or end - begin != count * dtype.itemsize:
                raise ValueError
            arrays[name] = content[begin:end].view(np.ndarray).view(dtype)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedTable(f"{path} is cut off or damaged") from error
    columns: dict[str, np.ndarray | Texts] = {
        name: array for name, array in arrays.items() if not name.endswith((BYTES, ENDS))
    }
    for name in [name.removesuffix(ENDS) for name in arrays if name.endswith(ENDS)]:
        ends, data = arrays[name + ENDS], arrays.get(name + BYTES)
        if data is None or ends.dtype != np.int64 or (int(ends[-1]) if len(ends) else 0) != len(data):
            raise DamagedTable(f"{path} is damaged: the texts of {name} do not fit their ends")
        columns[name] = Texts(data, ends)
    return columns, about


def _decoded(content):
    return content.decode("utf-8", "surrogateescape")


def _flags(mask):
    for first in range(0, len(mask), AT_ONCE):
        yield from mask[first : first + AT_ONCE].tolist()
