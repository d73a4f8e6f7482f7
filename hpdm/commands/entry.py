"""The commands `hpdm-train`, `hpdm-sample`, `hpdm-info` and `hpdm-data`, each imported when it is called."""

import importlib

from hpdm.support.interrupts import ends_at_once
from hpdm.support.openmp import wait_passively

COMMANDS = {
    "train": "hpdm.commands.train",
    "sample": "hpdm.commands.sample",
    "info": "hpdm.commands.info",
    "data": "hpdm.commands.data",
}


def __getattr__(name):
    if name not in COMMANDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    wait_passively()
    with ends_at_once():
        return getattr(importlib.import_module(COMMANDS[name]), name)
