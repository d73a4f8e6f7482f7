"""Time left, by clocks that tests set."""

import io
import re

import pytest

from hpdm.support import progress as console
from hpdm.support.pace import Pace


def reported(moments):
    pace = Pace()
    for seconds, done in moments:
        pace.report(seconds, done)
    return pace


def test_the_first_batch_says_nothing_and_does_not_count():
    """Ten minutes of start-up, then 2 s a step."""
    pace = reported([(600.0, 1)])
    assert pace.rate(601.0) is None and pace.rate(100000.0) is None
    pace.report(602.0, 2)
    pace.report(604.0, 3)
    assert pace.rate(605.0) == pytest.approx(0.5)


def test_a_batch_that_is_reported_item_by_item():
    """32 videos a minute, written within 0.3 s: no figure while they are, the right one after."""
    pace = Pace()
    for batch in range(4):
        for video in range(32):
            now = 90.0 + 60 * batch + 0.01 * video
            pace.report(now, 32 * batch + video + 1)
            if batch > 1:
                assert pace.rate(now) == pytest.approx(32 / 60, rel=0.01)
            else:
                assert pace.rate(now) is None
    assert pace.rate(300.0) == pytest.approx(32 / 60, rel=0.01)


def test_what_is_known_of_a_cache_is_forgotten():
    """The first 1,000 clips come from a cache at 1,000 a second, the others take 1 s each."""
    pace = Pace()
    for clip in range(1000):
        pace.report(0.001 * (clip + 1), clip + 1)
    for clip in range(200):
        pace.report(2.0 + clip, 1001 + clip)
    assert pace.rate(202.0) == pytest.approx(1, rel=0.02)


def test_marks_are_few():
    pace = reported([(0.01 * step, step) for step in range(1, 200_000)])
    assert len(pace._marks) < 500 and pace.rate(2000.0) == pytest.approx(100, rel=0.01)


@pytest.fixture
def bar(monkeypatch):
    """(bar of 100 steps, text on the screen, function that moves its clock)."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(console.sys, "stderr", stream)
    bar = console.progress(total=100, unit="step", description="run")
    yield bar, lambda: re.split("[\r\n]", stream.getvalue().rstrip())[-1], lambda by: now.__setitem__(0, now[0] + by)
    bar.close()


def test_a_bar_shows_the_time_left_once_it_is_known(bar):
    bar, shown, wait = bar
    assert "0/100 [00:00]" in shown()
    wait(300)
    bar.update()
    assert "1/100 [05:00]" in shown() and "<" not in shown()
    for _ in range(2):
        wait(10)
        bar.update()
    wait(1)
    bar.refresh()
    assert "3/100 [05:21<16:10, 10.00s/step]" in shown()
    bar.set_postfix_str("loss 1")
    assert shown().endswith("10.00s/step, loss 1]")


def test_a_pause_that_is_taken_out_does_not_count(bar):
    bar, shown, wait = bar
    for _ in range(5):
        wait(10)
        bar.update()
        wait(500)  # an evaluation, as the loop of training takes it out
        bar.start_t += 500
        bar.last_print_t += 500
    bar.refresh()
    assert "10.00s/step" in shown()


def test_an_iterable_and_a_quiet_bar(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(console.sys, "stderr", stream)
    seen = []
    for item in console.progress(range(5), unit="clip"):
        now[0] += 2 if item else 100
        seen.append(item)
    assert seen == list(range(5)) and "2.00s/clip" in stream.getvalue() and "<03:" not in stream.getvalue()
    stream.truncate(0)
    assert list(console.progress(range(3), quiet=True)) == [0, 1, 2] and not stream.getvalue()
