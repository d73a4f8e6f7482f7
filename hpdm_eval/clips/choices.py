"""Words that protocols choose among; here, so that a command's help imports no decoder."""

import re

from hpdm.support.errors import InputError

RANGES = ("auto", "0..1", "-1..1", "0..255")  # of float arrays
METHODS = ("bilinear", "bicubic", "area", "lanczos")  # of resizing
RULES = ("sorted", "shuffled", "class-balanced")  # of selection
SPLIT_NAME = re.compile(r"ucf101-(train|test)-0([123])")


def check_split(name: str) -> None:
    """Raise InputError unless `name` is a split: ucf101-train-01 ... ucf101-test-03."""
    if not SPLIT_NAME.fullmatch(name):
        raise InputError(f"unknown split {name!r}: ucf101-train-01, -02, -03 and ucf101-test-01, -02, -03 are known")
