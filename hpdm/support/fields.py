"""Dataclasses from what people write in YAML: unknown and missing keys, and values of the wrong kind, are named."""

import dataclasses
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from hpdm.support.errors import InputError

LARGEST = 1e30  # no setting is larger
Made = TypeVar("Made")


def check_keys(
    values: object, known: Collection[str], where: str, *, needed: Collection[str] = (), word: str = "key"
) -> None:
    """Raise InputError unless `values` is a mapping whose keys are among `known` and hold all of `needed`.

    where: begins the message, such as the file's name; word: what a key is called in it.

    >>> check_keys({"title": "a", "rows": 3}, ["title", "rows"], "layout x", needed=["title"])
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must hold {word}s with values, not {short(values)!r}")
    if unknown := sorted(map(str, set(values) - set(known))):
        raise InputError(f"{where}: unknown {word} {short(', '.join(unknown))!r}; known are {', '.join(known)}")
    if missing := [name for name in needed if name not in values]:
        raise InputError(f"{where}: {missing[0]} is missing")


def build(
    kind: type[Made],
    values: Any,
    where: str,
    *,
    resolve: Callable[[Any, Any], Any] = lambda hint, value: hint,
    check: Callable[[Any, str], Any] = lambda value, where: value,
) -> Made:
    """A dataclass of a mapping, by the annotations of its fields; dataclasses within it are built alike.

    YAML's habits are forgiven: lists for tuples, whole numbers for floats, 1e-3 as text. resolve: function of a field's
    annotation and value that returns the annotation to go by. check: function of a number and where it is that returns
    it, or raises. Keys in the class attribute `RETIRED` are passed over. Raises InputError.

    >>> @dataclasses.dataclass
    ... class Size:
    ...     width: float
    ...     shape: tuple[int, ...] = ()
    >>> build(Size, {"width": 3, "shape": [1, 2]}, "size.yaml")
    Size(width=3.0, shape=(1, 2))
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be a section with keys, not {short(values)!r}")
    hints = typing.get_type_hints(kind)
    values = {key: value for key, value in values.items() if key not in getattr(kind, "RETIRED", ())}
    needed = [
        item.name
        for item in dataclasses.fields(typing.cast(Any, kind))
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    names = [item.name for item in dataclasses.fields(typing.cast(Any, kind))]
    check_keys(values, names, where, needed=needed)
    arguments = {}
    for key, value in values.items():
        hint, place = resolve(hints[key], value), f"{where}: {key}"
        if dataclasses.is_dataclass(hint):
            arguments[key] = build(typing.cast(type, hint), value, place, resolve=resolve, check=check)
        else:
            arguments[key] = cast(hint, value, place, check)
    return kind(**arguments)


def cast(hint: Any, value: Any, where: str, check: Callable[[Any, str], Any] = lambda value, where: value) -> Any:
    """`value` as the annotation `hint` says; raises InputError where it is of no kind that the annotation allows."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        origin = typing.get_origin(option)
        if option is Any:
            return value
        if option is type(None) and value is None:
            return None
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return check(_finite(value, where), where)
        if origin is tuple and isinstance(value, list | tuple):
            kinds = typing.get_args(option)
            repeated = kinds[0] if len(kinds) == 2 and kinds[1] is Ellipsis else None
            if repeated is None and len(kinds) != len(value):
                continue
            each = [repeated] * len(value) if repeated is not None else kinds
            return tuple(cast(kind, item, where, check) for kind, item in zip(each, value, strict=True))
        if isinstance(option, type) and origin is None and type(value) is option:
            return check(value, where) if option is int else value
    # YAML 1.1 reads 1e-3 as text.
    if isinstance(value, str) and float in options:
        try:
            number = float(value)
        except ValueError:
            pass
        else:
            return check(_finite(number, where), where)
    expected = " or ".join(getattr(option, "__name__", str(option)) for option in options)
    raise InputError(f"{where} must be {expected}, not {short(value)!r}")


def short(value: object) -> str:
    """A value for a message: texts of any length, numbers of any size, nested lists."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _finite(value: float, where: str) -> float:
    """A number as float; raises InputError for those that no setting can have."""
    if value == float("inf") and where.endswith("S_max"):
        return float(value)
    if not -LARGEST <= value <= LARGEST:  # not a number is neither
        raise InputError(f"{where} must be a finite number, not {short(value)}")
    return float(value)
