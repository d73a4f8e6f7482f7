"""Long work ends by a signal or by the clock, and whoever was in charge of signals before is again."""

import os
import signal
import time

import pytest

from hpdm_eval.support.stopping import stopping

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


def handlers():
    return [signal.getsignal(number) for number in NUMBERS]


def test_the_clock_ends_work_and_says_so():
    before = handlers()
    with stopping(0.001) as stop, pytest.raises(KeyboardInterrupt):
        time.sleep(20)
    assert stop.is_time_up and stop.reason == "time is up"
    assert handlers() == before and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_signal_ends_work_and_without_minutes_there_is_no_clock():
    before = handlers()
    with stopping() as stop:
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
    assert not stop.is_time_up and stop.reason == "interrupted" and handlers() == before


def test_a_run_that_handles_sigterm_itself_is_asked_first():
    asked = []
    with stopping(0.001) as stop:
        own = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
        try:
            deadline = time.monotonic() + 20
            while not asked and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            signal.signal(signal.SIGTERM, own)
    assert asked == [signal.SIGTERM] and stop.is_time_up
