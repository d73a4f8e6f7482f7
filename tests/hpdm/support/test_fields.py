"""Dataclasses from YAML: what is wrong is named."""

import dataclasses
import doctest

import pytest

from hpdm.support import fields
from hpdm.support.errors import InputError


@dataclasses.dataclass(frozen=True)
class Part:
    size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Whole:
    RETIRED = ("old",)

    name: str
    part: Part
    rate: float = 1.0
    count: int | None = None
    free: tuple[float, ...] = ()


def test_what_people_write_is_understood():
    values = {"name": "a", "part": {"size": [2, 3]}, "rate": "1e-3", "count": None, "free": [1, 2.5], "old": "x"}
    assert fields.build(Whole, values, "here") == Whole("a", Part((2, 3)), 1e-3, None, (1.0, 2.5))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"nmae": "a"}, "file: unknown key 'nmae'; known are name, part, rate, count, free"),
        ({"name": None}, "file: name must be str, not 'None'"),
        ({"part": [2, 3]}, "file: part must be a section with keys, not '[2, 3]'"),
        ({"part": {"size": [2, 3, 4]}}, "file: part: size must be tuple, not '[2, 3, 4]'"),
        ({"part": {"size": [2, True]}}, "file: part: size must be int, not 'True'"),
        ({"rate": float("nan")}, "file: rate must be a finite number, not nan"),
        ({"rate": 1e31}, "file: rate must be a finite number"),
        ({"count": 1.5}, "file: count must be int or NoneType, not '1.5'"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(InputError) as raised:
        fields.build(Whole, {"name": "a", "part": {"size": [2, 3]}} | change, "file")
    assert str(raised.value).startswith(message)


def test_what_is_missing_is_named_and_every_number_is_checked():
    with pytest.raises(InputError, match="file: part is missing"):
        fields.build(Whole, {"name": "a"}, "file")
    with pytest.raises(InputError, match="file must be a section with keys, not 'text'"):
        fields.build(Whole, "text", "file")
    seen = []
    values = {"name": "a", "part": {"size": [2, 3]}, "rate": 4}
    fields.build(Whole, values, "file", check=lambda value, where: seen.append((where, value)) or value)
    assert seen == [("file: part: size", 2), ("file: part: size", 3), ("file: rate", 4.0)]


def test_examples():
    assert doctest.testmod(fields).attempted and not doctest.testmod(fields).failed
