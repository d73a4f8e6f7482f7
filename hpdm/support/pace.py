"""How fast work goes, from the moments at which parts of it were done, without what came before the first.

The first batch carries what happens once: starting processes, filling caches, choosing kernels. An estimate that
counts it is wrong by as much, so there is none until work after it has been measured. What is reported within a moment,
such as the videos of a batch one by one, counts as one batch: between its first and its last nothing can be said.
"""

from collections import deque

MOMENT = 0.05  # of the time that a batch took
LEAST_SECONDS = 1.0  # of measured work
THINNING = 0.01  # of all measured time: batches nearer to each other are not kept apart


class Pace:
    """Items per second over the later half of the time since the first batch.

    Times are seconds of any clock that starts at 0 when the work does; counts are of items done.
    """

    def __init__(self, done: float = 0) -> None:
        self._marks = deque()  # (seconds, count) at the ends of batches
        self._before = 0.0  # end of the batch before this one
        self._began: float | None = None  # first report of this one
        self._last = 0.0, done

    def report(self, seconds: float, done: float) -> None:
        """So many items are done now."""
        if self._began is not None and not self._same_batch(seconds):
            self._close()
        if self._began is None:
            self._began = seconds
        self._last = seconds, done

    def rate(self, seconds: float) -> float | None:
        """Items per second, or None while too little is known."""
        if self._began is not None and not self._same_batch(seconds):
            self._close()
        if len(self._marks) < 2:
            return None
        (first, before), (last, done) = self._marks[0], self._marks[-1]
        return (done - before) / (last - first) if last - first >= LEAST_SECONDS and done > before else None

    def _same_batch(self, seconds):
        return seconds - self._began <= MOMENT * (self._began - self._before)

    def _close(self):
        """The batch at hand is over: nothing more came of it within a moment."""
        self._before, self._began = self._last[0], None
        marks = self._marks
        if len(marks) > 1 and self._last[0] - marks[-2][0] < THINNING * (self._last[0] - marks[0][0]):
            marks.pop()
        marks.append(self._last)
        if len(marks) == 1:
            self._start = self._last[0]
        while len(marks) > 2 and marks[1][0] - self._start <= (self._last[0] - self._start) / 2:
            marks.popleft()
