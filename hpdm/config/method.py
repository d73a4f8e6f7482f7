"""The registry of methods that a configuration can name: HPDM, and others that installed packages register.

A package offers a method, see `hpdm.methods.Method`, as an entry point of the group `hpdm.methods`; nothing of it is
imported before its name is used.
"""

import importlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, entry_points
from typing import Any

from hpdm.support.errors import InputError

GROUP = "hpdm.methods"
HPDM_METHOD = "hpdm"


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Which method a configuration is for; a method with settings of its own derives from this."""

    name: str = HPDM_METHOD


def method_names() -> list[str]:
    """Names of the methods other than HPDM that are installed."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def method_class(name: str) -> Any:
    """The class of a method, a `hpdm.methods.Method`; raises InputError for a name that nothing installed has."""
    if name == HPDM_METHOD:
        return importlib.import_module("hpdm.hierarchical").Hierarchical
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        known = f"unknown method {name!r}; there are {', '.join([HPDM_METHOD, *method_names()])}"
        raise InputError(
            known
            + (
                ""
                if is_installed()
                else "; those of this program are known once it is installed, as by pip install -e ."
            )
        )
    return found[0].load()


def is_installed() -> bool:
    """Whether this package was installed; from a source tree alone its entry points are unknown."""
    try:
        return bool(distribution("hpdm"))
    except PackageNotFoundError:
        return False


def settings_class(name: str) -> type[MethodConfig]:
    """The dataclass of a method's settings; raises InputError as `method_class` does."""
    return MethodConfig if name == HPDM_METHOD else method_class(name).settings
