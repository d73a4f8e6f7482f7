"""How PyTorch's threads wait for each other; to be said before torch is imported, so this imports nothing of it.

OpenMP's threads spin between two pieces of work by default. Where another process wants the cores, each piece then
waits for threads that spin or are not running, and a program of many small operations takes ten times as long. Passive
threads sleep instead. How many threads there are stays PyTorch's choice, or OMP_NUM_THREADS.
"""

import os
import sys

WAIT_POLICY = "OMP_WAIT_POLICY"
BY_USER = (WAIT_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # any of these says how to wait
RECORDED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", *BY_USER)


def wait_passively() -> None:
    """Let threads sleep while they wait, unless the environment says how; for commands, before they import torch."""
    if "torch" not in sys.modules and not any(name in os.environ for name in BY_USER):
        os.environ[WAIT_POLICY] = "PASSIVE"


def settings() -> dict[str, str]:
    """{name: value} of what the environment says about threads, for records."""
    return {name: os.environ[name] for name in RECORDED if name in os.environ}
