"""Many small arrays of one shape, kept as one."""

import numpy as np

FIRST = 64  # rows that there is room for at first


class Rows:
    """Rows that are added one by one to an array that grows.

    As arrays of their own they would lie between what passing calls of a network take and free, and keep those pages:
    several KiB a clip.

    >>> rows = Rows()
    >>> for number in range(3):
    ...     rows.add(np.full(2, number))
    >>> rows.array().tolist()
    [[0, 0], [1, 1], [2, 2]]
    """

    def __init__(self) -> None:
        self._held: np.ndarray | None = None
        self._count = 0

    def add(self, row: np.ndarray) -> None:
        """Copy `row` behind the others; raises ValueError where its shape or dtype is not theirs."""
        if self._held is None:
            self._held = np.empty((FIRST, *row.shape), row.dtype)
        if (row.shape, row.dtype) != (self._held.shape[1:], self._held.dtype):
            raise ValueError(f"a row {row.dtype} {row.shape} behind rows {self._held.dtype} {self._held.shape[1:]}")
        if self._count == len(self._held):
            self._held = np.concatenate([self._held, np.empty_like(self._held)])
        self._held[self._count] = row
        self._count += 1

    def array(self) -> np.ndarray:
        """All rows [N, ...] so far; raises ValueError where there is none, whose shape nobody knows."""
        if self._held is None:
            raise ValueError("no row was added")
        return self._held[: self._count].copy()
