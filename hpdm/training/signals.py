"""Ending a run from outside: what asked decides how much time there is.

SIGTERM, and Ctrl-C under torchrun, which kills its processes half a minute later: the step in progress is dropped
between two passes, and the run saves. Ctrl-C otherwise: the run finishes its step and saves; a second one ends it at
once. Before the first step there is nothing to save, and the first signal ends it.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hpdm.support.interrupts import ENDING, EXIT_INTERRUPTED, handling
from hpdm.support.progress import note

# torchrun passes Ctrl-C on to processes that have it from the terminal already: within this time it is the same one.
SAME_PRESS_SECONDS = 2.0


class StopRequest:
    """Whether the run was asked to stop, set by the signal handlers; `in_steps`: whether there are steps to finish."""

    def __init__(self) -> None:
        self.requested = self.in_steps = False
        self.at_once = False  # without finishing the step in progress
        self._pressed: float | None = None  # when Ctrl-C first came

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if not self.in_steps:
            raise KeyboardInterrupt
        grace = SAME_PRESS_SECONDS if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
        if number == signal.SIGINT and self._pressed is not None and time.monotonic() - self._pressed >= grace:
            print("stopped at once: nothing saved since the last checkpoint", file=sys.stderr, flush=True)
            os._exit(EXIT_INTERRUPTED)
        if number == signal.SIGINT and self._pressed is None:
            self._pressed = time.monotonic()
        if number == signal.SIGTERM or "TORCHELASTIC_RUN_ID" in os.environ:
            if not self.at_once:
                note("stopping: the step in progress is dropped, what was made before it is saved")
            self.at_once = True
        elif not self.requested:
            note("stopping after this step; Ctrl-C again to stop at once, without saving")
        self.requested = True


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Handle SIGTERM and SIGINT within the block; yields the `StopRequest`. Outside the main thread it never comes."""
    request = StopRequest()
    with handling(dict.fromkeys(ENDING, request.receive)):
        yield request
