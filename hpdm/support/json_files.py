"""JSON files: written whole or not at all, and read with every fault as one message."""

import json
from pathlib import Path
from typing import Any

from hpdm.support.atomic import atomic_file
from hpdm.support.errors import InputError

DEEPEST_JSON = 200


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically."""
    with atomic_file(path, "w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: str | Path, what: str = "JSON") -> Any:
    """The content of a JSON file. Raises InputError, one line that calls it `what`, for any that cannot be read.

    A missing file is an InputError too.
    """
    try:
        return parse_json(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: not readable as {what} ({' '.join(str(error).split())})") from error


def parse_json(content: str | bytes) -> Any:
    """The value of JSON text or bytes.

    Raises ValueError for all that is wrong, also for bytes that are not UTF-8, more than DEEPEST_JSON containers in one
    another, and whole numbers that no 64 bits hold: what works with the value fails at those in ways of its own.
    """
    text = content.decode("utf-8") if isinstance(content, bytes) else content
    try:
        value = json.loads(text, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if text.count("[") + text.count("{") > DEEPEST_JSON and _is_deep(value):
        raise ValueError("nested too deeply")
    return value


def _whole_number(text):
    if len(text) > 20 or not -1 << 63 <= (value := int(text)) < 1 << 64:
        raise ValueError(f"a whole number of {len(text.lstrip('-'))} digits")
    return value


def _is_deep(value):
    level = [value]
    for _ in range(DEEPEST_JSON):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)
