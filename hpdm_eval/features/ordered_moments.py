"""`Moments` that are the same to the last bit for any number of processes.

Joining moments rounds, so its result depends on the order. Here clips are joined by their position in the set, along a
tree that knows nothing of processes: BLOCK neighbouring positions make a leaf, two neighbouring leaves a node, and so
on. A process joins what it has all of, and the rest is joined when all processes' parts are gathered.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hpdm_eval.features.moments import Moments
from hpdm_eval.support.threads import one_thread

BLOCK = 64  # positions
ROWS = 1024  # features that are summed at once


class OrderedMoments:
    """Moments of features by position. In memory are O(log N) moments, and the features of two blocks at most."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._owned: tuple[int, int | None] = (0, None)
        self._block: int | None = None
        self._rows: list[tuple[int, np.ndarray]] = []  # features of the positions of a block that is not complete
        self._parts = {}  # (level, index): Moments; level 0, block: {position: features} where others may have more

    def add(self, position: int, features: np.ndarray, owned: tuple[int, int | None] = (0, None)) -> None:
        """Features [N, D] of the clip at a position, in ascending order.

        owned: (start, stop) of the positions of which no other process has any; stop is None where there is no other.
        """
        if position // BLOCK != self._block or owned != self._owned:
            self._close()
            self._block, self._owned = position // BLOCK, owned
        self._rows.append((position, features))

    def parts(self) -> dict[tuple[int, int], Any]:
        """What `joined` needs of this process."""
        self._close()
        return self._parts

    @staticmethod
    def joined(dimension: int, parts: Iterable[Mapping[tuple[int, int], Any]]) -> Moments:
        """The Moments of all of `parts`, of one or of several processes."""
        leaves, nodes = {}, {}
        for part in parts:
            for key, value in part.items():
                if isinstance(value, Moments):
                    nodes[key] = value
                else:
                    leaves.setdefault(key, []).extend(value)
        nodes |= {key: _sum(dimension, sorted(rows, key=lambda row: row[0])) for key, rows in leaves.items()}
        while len(nodes) > 1:
            lowest = min(level for level, _ in nodes)
            for level, index in sorted(key for key in nodes if key[0] == lowest):
                _lift(nodes, level, index)
        return next(iter(nodes.values()), Moments(dimension))

    def _close(self):
        """The block is complete as far as this process goes."""
        if self._block is None:
            return
        block, rows, (start, stop) = self._block, self._rows, self._owned
        self._block, self._rows = None, []
        if block * BLOCK < start or (stop is not None and (block + 1) * BLOCK > stop):
            self._parts.setdefault((0, block), []).extend(rows)
            return
        self._parts[0, block] = _sum(self._dimension, rows)
        self._lift_all(block)

    def _lift_all(self, done):
        """Join all that is known to be complete when block `done` is."""
        start = self._owned[0]
        while True:
            ready = [
                (level, index)
                for (level, index), value in self._parts.items()
                if isinstance(value, Moments)
                and (index // 2 << level + 1) * BLOCK >= start
                and (index // 2 + 1 << level + 1) <= done + 1
            ]
            if not ready:
                return
            _lift(self._parts, *min(ready))


def _lift(nodes, level, index):
    """Replace a node and its neighbour, where there is one, by the node above."""
    pair = [nodes.pop((level, child), None) for child in (index // 2 * 2, index // 2 * 2 + 1)]
    found = [moments for moments in pair if moments is not None]
    if found:
        with one_thread():
            nodes[level + 1, index // 2] = found[0] if len(found) == 1 else found[0].merge(found[1])


@one_thread()
def _sum(dimension, rows):
    """Moments of [(position, features), ...], about ROWS features at a time."""
    moments, held, count = Moments(dimension), [], 0
    for _, features in rows:
        held.append(features)
        count += len(features)
        if count >= ROWS:
            moments.update(np.concatenate(held))
            held, count = [], 0
    if held:
        moments.update(np.concatenate(held))
    return moments
