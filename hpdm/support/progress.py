"""What a program says while it works: notes and progress bars on stderr, so that stdout keeps to results."""

import sys
from collections.abc import Iterable
from contextlib import suppress

from tqdm import tqdm

from hpdm.support.pace import Pace


def progress(
    iterable: Iterable | None = None,
    *,
    total: int | None = None,
    unit: str = "it",
    description: str = "",
    quiet: bool = False,
    initial: int = 0,
) -> tqdm:
    """A progress bar on stderr with rate and time left (a tqdm object); `quiet` silences it.

    The time left is of work after the first batch, see `hpdm.support.pace`, and not shown before that can be measured.
    Where stderr is not a terminal, a line every half minute is enough.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    interval = 0.5 if terminal else 30
    return _Bar(
        iterable,
        total=total,
        unit=unit,
        desc=description,
        disable=quiet or sys.stderr is None,
        initial=initial,
        file=_Unbreakable(sys.stderr),
        dynamic_ncols=True,
        mininterval=interval,
        maxinterval=2 * interval,
        leave=False,
    )


class _Bar(tqdm):
    """A bar whose rate is that of a Pace; without one there is neither rate nor time left."""

    UNKNOWN = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"

    def __init__(self, *arguments, **options):
        self._pace = Pace(options.get("initial", 0))
        super().__init__(*arguments, **options)

    def __iter__(self):
        try:
            for item in self.iterable:
                yield item
                self.update()
        finally:
            self.close()

    def update(self, n=1):
        if self.disable:
            return None
        # Work that is no part of this moves start_t forward, and so counts for nothing here.
        self._pace.report(self._time() - self.start_t, self.n + n)
        return super().update(n)

    @property
    def format_dict(self):
        about = super().format_dict
        if self.disable or not hasattr(self, "start_t"):
            return about | {"bar_format": self.UNKNOWN} if about["total"] else about
        rate = self._pace.rate(self._time() - self.start_t)
        if about["total"] and rate is None and self.n < about["total"]:
            return about | {"bar_format": self.UNKNOWN}
        return about | {"rate": rate}


def note(message: str, quiet: bool = False) -> None:
    """Print a line on stderr, so that stdout keeps to results; goes around a running progress bar.

    A stderr that cannot be written, for its disk is full or its reader has gone, ends no work.
    """
    if not quiet and sys.stderr is not None:
        tqdm.write(message, file=_Unbreakable(sys.stderr))


class _Unbreakable:
    """A stream whose errors of writing do not matter."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def __eq__(self, other):  # tqdm looks for bars on the same stream
        return self._stream is getattr(other, "_stream", other)

    def __hash__(self):
        return id(self._stream)

    def write(self, text):
        with suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self):
        with suppress(OSError):
            self._stream.flush()
