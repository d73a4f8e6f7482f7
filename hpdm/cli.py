"""The commands `hpdm-train`, `hpdm-sample`, `hpdm-info` and `hpdm-data`; each lives with its subject and is imported when called."""

import importlib

from hpdm.interrupts import ends_at_once
from hpdm.openmp import wait_passively

COMMANDS = {"train": "hpdm.training.cli", "sample": "hpdm.sampling.cli", "info": "hpdm.training.info",
            "data": "hpdm.data.cli"}


def __getattr__(name):
    if name not in COMMANDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    wait_passively()
    with ends_at_once():
        return getattr(importlib.import_module(COMMANDS[name]), name)
