"""The geometry of a pyramid as it is configured: levels, patches, windows per level, and the names that choose them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hpdm.support.errors import InputError

OVERLAPS = ("none", "w", "h", "hw", "f", "fw", "fh", "fhw")
BORDERS = ("covered", "kept")
WINDOW_ORDERS = ("coarse-first", "finest-first")
SHRINKS = ("area", "stride")
AXES = "fhw"
SPLITS = ("fhw", "hw", "fh", "fw", "f", "h", "w")


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """`levels` nested grids; each level doubles the resolution of the one below it along every split axis."""

    levels: int
    # Resolution of every window, (frames, rows, columns); also the whole video's on level 0.
    patch: tuple[int, int, int]
    # Axes along which windows halve from level to level: fhw, or hw where every window spans all frames.
    split: str = "fhw"

    def __post_init__(self) -> None:
        patch = tuple(self.patch)
        object.__setattr__(self, "patch", patch)
        if self.levels < 1:
            raise InputError(f"A pyramid needs at least one level, not {self.levels}.")
        if len(patch) != 3 or any(not isinstance(r, int) or r < 1 for r in patch):
            raise InputError(f"The patch must be three positive whole numbers (frames, height, width), not {patch}.")
        if self.split not in SPLITS:
            raise InputError(f"pyramid.split must be one of {', '.join(SPLITS)}; got {self.split!r}.")

    def factors(self, level: int) -> tuple[int, int, int]:
        """How many windows of `level` make up the video along each axis: 2^level, 1 where the axis is not split."""
        frames, rows, columns = (1 << level if axis in self.split else 1 for axis in AXES)
        return frames, rows, columns

    def resolution(self, level: int, canvas: tuple[int, int, int] = (1, 1, 1)) -> tuple[int, int, int]:
        """Size of the whole video on the grid of `level`, (frames, rows, columns).

        `canvas` is how many times as large as in training the video is along each axis.
        """
        sizes = (r * n * times for r, n, times in zip(self.patch, self.factors(level), canvas, strict=True))
        frames, rows, columns = sizes
        return frames, rows, columns

    def scale(self, level: int) -> float:
        """Fraction of the video that a window of `level` covers along each split axis: s_l = 2^-l."""
        return 2.0**-level


def window_levels(branching: Sequence[int]) -> tuple[int, ...]:
    """The level of each of a sample's windows, coarse to fine: (0, 1, 1, 2, 2, 2, 2) for branching (1, 2, 4)."""
    return tuple(level for level, count in enumerate(branching) for _ in range(count))


def check_branching(branching: Sequence[int], levels: int) -> None:
    """Raises InputError where numbers of windows per level do not fit `levels`, or no level shares out the next."""
    if not branching or len(branching) != levels:
        raise InputError(
            f"training.branching needs one number of windows per level: {levels or 'some'}, not {len(branching)}."
        )
    if min(branching) < 1 or any(fine % coarse for coarse, fine in pairwise(branching)):
        raise InputError(
            f"training.branching must be at least 1 and each number must divide the next, such as "
            f"{[2**level for level in range(levels)]}; got {list(branching)}."
        )
