"""Memory that is free, given back to the system.

glibc keeps what threads have freed, in pieces between what is still held. While clips come from processes and go
through a network in several threads, these pieces grow by up to 1 MiB a clip; given back every other second they do
not, for some milliseconds each time.
"""

import ctypes
import time
from collections.abc import Callable
from functools import cache

SECONDS = 2.0


class Heap:
    """`tidy()` gives free memory back where that was not done for SECONDS."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()

    def tidy(self) -> None:
        now = self._clock()
        if now - self._last >= SECONDS and (trim := _malloc_trim()) is not None:
            trim(0)
            self._last = self._clock()


@cache
def _malloc_trim():
    """glibc's function of that name, None elsewhere."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
