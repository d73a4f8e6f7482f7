"""Ending long work before its time: by a signal, or by the clock."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from hpdm.support.interrupts import handling, raises_interrupt


class Stop:
    """Why work ends early."""

    is_time_up = False

    @property
    def reason(self) -> str:
        """In words."""
        return "time is up" if self.is_time_up else "interrupted"


@contextmanager
def stopping(minutes: float | None = None) -> Iterator[Stop]:
    """Within the block SIGTERM raises KeyboardInterrupt as Ctrl-C does, and so does the clock after `minutes`.

    When the time is up the process gets a SIGTERM of its own, so that a training run, which handles it, saves first.
    """
    stop = Stop()

    def time_is_up(number, frame):
        stop.is_time_up = True
        os.kill(os.getpid(), signal.SIGTERM)  # whoever works now knows what to save on that

    with raises_interrupt(), handling({signal.SIGALRM: time_is_up}):
        signal.setitimer(signal.ITIMER_REAL, 60 * (minutes or 0))
        try:
            yield stop
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
