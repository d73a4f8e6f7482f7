"""Ending a run from outside: what asked decides how much time there is.

SIGTERM, and Ctrl-C under torchrun, which kills its processes half a minute later: the step in progress is dropped
between two passes, and the run saves. Ctrl-C otherwise: the run finishes its step and saves; a second one ends it at
once. Before the first step there is nothing to save, and the first signal ends it.
"""

import os
import signal
import sys
import time
from contextlib import contextmanager

from hpdm.support.console import EXIT_INTERRUPTED
from hpdm.support.progress import note

# torchrun passes Ctrl-C on to processes that the terminal has already told: within this time it is the same one.
SAME_PRESS_SECONDS = 2.0


class StopRequest:
    """Whether the run was asked to stop, set by the signal handlers; `in_steps`: whether there are steps to finish."""

    def __init__(self):
        self.requested = self.in_steps = False
        self.at_once = False  # without finishing the step in progress
        self._pressed = None  # when Ctrl-C first came

    def receive(self, number, frame):
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
def stop_on_signals():
    """Handle SIGTERM and SIGINT within the block; yields the `StopRequest`."""
    request = StopRequest()
    before = {number: signal.signal(number, request.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
