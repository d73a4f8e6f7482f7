"""What small files may ask for: limits on declared sizes and on memory, each with an environment variable of its own.

Values are bytes; K, M and G stand for 2^10, 2^20 and 2^30: `HPDM_EVAL_AHEAD=512M`.
"""

import os
import re

from hpdm.support.errors import InputError

DEFAULTS = {
    "HPDM_EVAL_AHEAD": 1 << 30,  # clips decoded before they are needed
    "HPDM_EVAL_MAX_CLIP": 4 << 30,  # one clip
    "HPDM_EVAL_MAX_UNPACKED": 256 << 20,  # what a small file may grow to, see `check_growth`
    "HPDM_EVAL_MAX_STATISTICS": 4 << 30,  # all arrays of a file of statistics or features
}
GROWTH = 200  # by which a file may grow beyond HPDM_EVAL_MAX_UNPACKED: pixels of still pictures shrink by less

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def limit(name: str) -> int:
    """Bytes of the limit `name`, as its environment variable or DEFAULTS say; raises InputError."""
    text = os.environ.get(name)
    if not text:
        return DEFAULTS[name]
    match = re.fullmatch(r"([0-9]{1,15})([KMG]?)", text.strip().upper())
    if not match or not int(match[1]):
        raise InputError(f"{name}={text}: write bytes, such as {DEFAULTS[name]}, or 512M or 4G")
    return int(match[1]) * _UNITS[match[2]]


def check_growth(declared: int, stored: int) -> str | None:
    """What is wrong with a file of `stored` bytes whose content says that it takes `declared`, or None."""
    if declared <= limit("HPDM_EVAL_MAX_UNPACKED") or declared <= GROWTH * stored:
        return None
    return (
        f"its content takes {in_words(declared)}, {declared // max(stored, 1)} times the file: refused as a "
        "decompression bomb; HPDM_EVAL_MAX_UNPACKED raises the limit"
    )


def in_words(size: int) -> str:
    """A number of bytes for people."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"
