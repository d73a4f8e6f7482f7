"""The process that measures, and the handle by which the run gives it items one by one.

It keeps what items share (an imported torch, a network on the device) and is replaced where it hangs, dies or has lost
its device, so that one item costs no other.
"""

import signal
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from hpdm_eval.benchmarks.gpu.run import ItemFailed

READY, RESULT, DONE, BROKEN, LOST = "ready", "result", "done", "broken", "lost"


class Worker:
    """Runs items in a process of its own: `execute` of `run_items`; use as a context manager.

    plan: a function that pickles, `Settings` → items of the run. on_ready(place) gets what `Bench.describe` says.
    """

    def __init__(self, plan: Callable[[Any], list], settings: Any, on_ready: Callable[[dict], object]) -> None:
        self.plan, self.settings, self.on_ready = plan, settings, on_ready
        self.process = None

    def __enter__(self) -> "Worker":
        self._start()
        return self

    def begin(self, limit: float) -> None:
        """Wait until the process is ready; raises ItemFailed where it is not within `limit` seconds."""
        self._wait(time.monotonic() + limit)

    def __exit__(self, *_: object) -> None:
        self._end()

    def __call__(self, item: Any, limit: float, facts: dict) -> Iterator[Any]:
        deadline = time.monotonic() + limit
        if self.process is None:
            self._start()
        self._wait(deadline)
        try:
            self.connection.send((item.name, facts))
        except OSError as error:
            self._end()
            raise ItemFailed("its process died before it began") from error
        while True:
            kind, content = self._next(deadline)
            if kind == RESULT:
                yield content
            elif kind == DONE:
                return
            else:
                if kind == LOST:
                    self._end()
                raise ItemFailed(content)

    def _wait(self, deadline):
        if not self.ready:
            self.on_ready(self._next(deadline)[1])
            self.ready = True

    def _next(self, deadline):
        try:
            if not self.connection.poll(max(0.0, deadline - time.monotonic())):
                self._end()
                raise ItemFailed("took too long and was stopped")
            return self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join(1)
            code = self.process.exitcode
            self._end()
            raise ItemFailed(f"its process died (exit code {code})") from error

    def _start(self):
        context = get_context("spawn")  # CUDA does not survive a fork
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, self.plan, self.settings))
        self.process.start()
        other.close()
        self.ready = False

    def _end(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None


def serve(connection: Connection, plan: Callable[[Any], list], settings: Any) -> None:
    """Body of the process: items by name come in, results go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run hears Ctrl-C, and ends this process
    from hpdm_eval.benchmarks.gpu.bench import Bench, DeviceLost, reason_of

    bench = Bench(settings)
    items = {item.name: item for item in plan(settings)}
    connection.send((READY, bench.describe()))
    while True:
        try:
            name, bench.facts = connection.recv()
        except EOFError:
            return
        try:
            for result in items[name].run(bench):
                connection.send((RESULT, result))
            bench.collect()
            answer = DONE, None
        except DeviceLost as error:
            answer = LOST, f"the device was lost: {error}"
        except Exception as error:
            traceback.print_exc()
            answer = BROKEN, reason_of(error)
            traceback.clear_frames(error.__traceback__)
        if answer[0] == BROKEN:
            try:
                bench.release()
            except DeviceLost as error:
                answer = LOST, f"{answer[1]}; then the device was lost: {error}"
        connection.send(answer)
        if answer[0] == LOST:
            return
