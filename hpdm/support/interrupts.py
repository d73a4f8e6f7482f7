"""Being ended from outside: Ctrl-C and SIGTERM, while a program starts and while a command runs.

Imports nothing but the standard library, so that it is in force before anything slow is imported.
"""

import os
import signal
import sys
import threading
from contextlib import contextmanager

EXIT_INTERRUPTED = 130
ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ends_at_once():
    """Within the block, which imports and makes nothing yet, Ctrl-C and SIGTERM end the process with one line.

    Handlers that somebody else has installed are left alone.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number, usual in zip(ENDING, (signal.default_int_handler, signal.SIG_DFL), strict=True):
            if signal.getsignal(number) is usual:
                before[number] = signal.signal(number, _exit)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Asked:
    """Whether the process was asked to end."""

    def __init__(self):
        self.to_end = False


@contextmanager
def raises_interrupt():
    """Within the block SIGTERM and Ctrl-C raise KeyboardInterrupt; yields an `Asked`.

    A second SIGTERM does nothing: the first is still being cleaned up after. A second Ctrl-C raises again. Signals that
    are ignored, as for programs in the background of a shell script, stay so. Outside the main thread nothing is done.
    """
    asked = Asked()

    def interrupt(number, frame):
        again, asked.to_end = asked.to_end, True
        if number == signal.SIGINT or not again:
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, interrupt)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number, frame):
    try:
        os.write(sys.__stderr__.fileno(), b"interrupted\n")
    except (AttributeError, OSError, ValueError):
        pass
    os._exit(EXIT_INTERRUPTED)
