"""Being ended from outside: Ctrl-C and SIGTERM, while a program starts, while a command runs, and in a training run.

`handling` is the one place where handlers are installed; outside the main thread, where Python allows none, it installs
nothing. What a handler does differs: end at once, raise KeyboardInterrupt, or ask a training run to stop.

Imports nothing but the standard library, so that it is in force before anything slow is imported.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

EXIT_INTERRUPTED = 130
ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handling(
    handlers: Mapping[int, Callable[[int, FrameType | None], Any]], unless: Callable[[int, Any], bool] | None = None
) -> Iterator[None]:
    """Within the block the signals have these handlers; those before are put back, whatever happens.

    unless(number, handler before): signals that keep the handler they have. Outside the main thread nothing is done.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if unless is None or not unless(number, signal.getsignal(number)):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def ends_at_once() -> Iterator[None]:
    """Within the block, which imports and makes nothing yet, Ctrl-C and SIGTERM end the process with one line.

    Handlers that somebody else has installed are left alone.
    """
    usual: dict[int, object] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    with handling(dict.fromkeys(ENDING, _exit), unless=lambda number, before: before is not usual[number]):
        yield


class Interruption:
    """Whether the process was asked to end."""

    def __init__(self) -> None:
        self.to_end = False


@contextmanager
def raises_interrupt() -> Iterator[Interruption]:
    """Within the block SIGTERM and Ctrl-C raise KeyboardInterrupt; yields an `Interruption`.

    A second SIGTERM does nothing: the first is still being cleaned up after. A second Ctrl-C raises again. Signals that
    are ignored, as for programs in the background of a shell script, stay so. Outside the main thread nothing is done.
    """
    interruption = Interruption()

    def interrupt(number, frame):
        again, interruption.to_end = interruption.to_end, True
        if number == signal.SIGINT or not again:
            raise KeyboardInterrupt

    with handling(dict.fromkeys(ENDING, interrupt), unless=lambda number, before: before in (signal.SIG_IGN, None)):
        yield interruption


def _exit(number, frame):
    with suppress(AttributeError, OSError, ValueError):
        os.write(sys.__stderr__.fileno(), b"interrupted\n")
    os._exit(EXIT_INTERRUPTED)
