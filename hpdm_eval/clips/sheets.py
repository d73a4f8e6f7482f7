"""Where the clips of a contact sheet lie: padding between them, a border before the first or not, and rescaling.

Three ways to save a sheet are common. With torchvision's `make_grid` padding surrounds every clip. VideoGPT and TATS
(`save_video_grid`) leave as much room and start at 0, so that a border of twice the padding ends the sheet. imageio
then scales a sheet whose sides are no multiples of 16 up to such (517 to 528 px), which blurs the padding. Which of
them it is cannot be told from the size; it is told from the pixels, since padding has one colour all along.

T frames, H rows, W columns: a sheet is [T,H,W,C]. A layout along one axis is a list of (start, stop) pixels of clips.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

BLOCK = 16  # imageio's macro_block_size
BLUR = 1  # pixels that scaling carries of the padding into a clip
MOST_PADDING = 8
SMALLEST = 8  # pixels of a clip's side from which content is looked at
FRAMES = 4  # that are looked at
FINER = 8  # times as many rows, or columns, are tried
MUCH, MUCH_BLURRED = 0.35, 0.6  # of what is usual on the sheet: padding differs less from one colour


@dataclass(frozen=True)
class Layout:
    """One way in which `count` clips and padding may fill `size` pixels."""

    count: int
    padding: int
    leads: bool  # whether padding comes before the first clip
    clip: int  # pixels of a clip before any scaling
    scale: float  # 1 for a sheet as it was made

    @property
    def cell(self) -> int:
        """Pixels of a clip on the sheet that hold no padding."""
        return self.clip if self.scale == 1 else int(self.clip * self.scale) - 2 * BLUR

    def start(self, index: int) -> int:
        """First pixel of clip number `index`."""
        exact = (self.leads * self.padding + index * (self.clip + self.padding)) * self.scale
        return round(exact) if self.scale == 1 else int(np.ceil(exact)) + BLUR

    def lines(self) -> list[int]:
        """Pixels that are padding."""
        total = self.count * self.clip + (self.count + 1) * self.padding
        first = self.leads * self.padding
        pitch = self.clip + self.padding
        taken = {first + index * pitch + k for index in range(self.count) for k in range(self.clip)}
        middles = [k for k in range(total) if k not in taken]
        return sorted({min(int((k + 0.5) * self.scale), round(total * self.scale) - 1) for k in middles})


def layouts(size: int, count: int, padding: int) -> list[Layout]:
    """All `Layout`s of an axis: those of the sheet as it was made, then those of a rescaled one."""
    inner = size - (count + 1) * padding
    leads = (True, False) if padding else (True,)
    found = []
    if inner >= count and inner % count == 0:
        found = [Layout(count, padding, lead, inner // count, 1.0) for lead in leads]
    if padding and size % BLOCK == 0:
        sizes = [(clip, count * clip + (count + 1) * padding) for clip in range(1, size // count + 1)]
        fitting = [(clip, total) for clip, total in sizes if size - BLOCK < total < size]
        if fitting:
            # their clips lie within a hundredth of a pixel of each other; the roundest is the likeliest
            clip, total = max(fitting, key=lambda entry: (entry[0] & -entry[0], entry[0]))
            found += [Layout(count, padding, lead, clip, size / total) for lead in leads]
    return found


def find_layout(sheet: np.ndarray, rows: int, columns: int, padding: int) -> tuple[Layout, Layout] | None:
    """(row Layout, column Layout) of a sheet; None where none fits it.

    A border before the first clip is assumed unless the pixels speak against it. A rescaled sheet, where the size says
    little, must show its padding.
    """
    pairs = _pairs(sheet, rows, columns, padding)
    seen = next((pair for pair in pairs if _shows_padding(sheet, pair)), None)
    if seen is not None:
        return seen
    return next((pair for pair in pairs if not _is_scaled(pair)), None)


def better_padding(sheet: np.ndarray, rows: int, columns: int, padding: int) -> int | None:
    """Padding that the pixels show where cutting by `padding` would leave it in the clips; None where all is well."""
    own = find_layout(sheet, rows, columns, padding)
    if own is not None and padding and _shows_padding(sheet, own):
        if _is_scaled(own):
            return None
        others = [(other, False) for other in range(MOST_PADDING, padding, -1)]  # of which it is the inner part
    else:
        # rescaled sheets show one padding and the next alike; 1 is what code that rescales leaves
        others = [(other, False) for other in range(MOST_PADDING, 0, -1)]
        others += [(other, True) for other in range(1, MOST_PADDING + 1)]
    for other, scaled in others:
        pairs = [
            pair
            for pair in _pairs(sheet, rows, columns, other)
            if min(axis.cell for axis in pair) >= SMALLEST and _is_scaled(pair) == scaled and other != padding
        ]
        if any(_shows_padding(sheet, pair) for pair in pairs):
            return other
    return None


def better_counts(sheet: np.ndarray, rows: int, columns: int, padding: int) -> tuple[int, int, int] | None:
    """(rows, columns, padding) whose borders the pixels show where cutting as given would not fit; None if all is well.

    Looked for are finer grids of the same padding, of whose borders those given are a part, and, where the given
    padding is not seen, as many clips in other rows and columns.
    """
    flat = [_flat_lines(sheet, axis) for axis in (1, 2)]
    if padding:
        finer = [(rows * down, columns * across) for down, across in product(range(1, FINER + 1), repeat=2)]
        for one, other in sorted(finer[1:], key=lambda counts: -counts[0] * counts[1]):
            if _is_seen(sheet, one, other, padding, flat):
                return one, other, padding
        own = find_layout(sheet, rows, columns, padding)
        if own is not None and _shows_padding(sheet, own):
            return None
    count = rows * columns
    for other in sorted(range(1, MOST_PADDING + 1), key=lambda other: other != padding):
        for one in (one for one in range(1, count + 1) if count % one == 0 and one != rows):
            if _is_seen(sheet, one, count // one, other, flat):
                return one, count // one, other
    return None


def _is_seen(sheet, rows, columns, padding, flat):
    """Whether a sheet that was not rescaled shows the padding of such a grid; flat: bool, of its rows and columns."""
    inner = [size - (count + 1) * padding for size, count in zip(sheet.shape[1:3], (rows, columns))]
    if any(size < SMALLEST * count or size % count for size, count in zip(inner, (rows, columns))):
        return False
    for leads in (True, False):
        pair = [Layout(count, padding, leads, size // count, 1.0) for size, count in zip(inner, (rows, columns))]
        if all(own[axis.lines()].all() for axis, own in zip(pair, flat)) and _shows_padding(sheet, pair):
            return True
    return False


def _flat_lines(sheet, axis):
    """Which rows (axis 1) or columns (2) of a sheet differ from one colour by less than is usual: bool [H] or [W]."""
    lines = np.moveaxis(some_frames(sheet), axis, 0)
    lines = lines.reshape(len(lines), -1, sheet.shape[-1])[:, ::7].astype(np.float32)
    apart = np.abs(lines - lines.mean(axis=1, keepdims=True)).mean(axis=(1, 2))
    return apart <= MUCH * apart.mean()


def some_frames(sheet: np.ndarray) -> np.ndarray:
    """The frames [T,H,W,C] of a sheet that are looked at, from its first to its last."""
    return sheet[np.linspace(0, len(sheet) - 1, min(FRAMES, len(sheet))).astype(int)]


def _is_scaled(pair):
    return any(axis.scale != 1 for axis in pair)


def _pairs(sheet, rows, columns, padding):
    """Layouts of both axes that agree on the border before the first clip, sheets as they were made first."""
    found = product(layouts(sheet.shape[1], rows, padding), layouts(sheet.shape[2], columns, padding))
    pairs = [(down, across) for down, across in found if down.leads == across.leads]
    return sorted(pairs, key=lambda pair: sum(axis.scale != 1 for axis in pair))


def _shows_padding(sheet, pair):
    """Whether the padding of a layout has one colour, which other pixels have not; yes where there is none."""
    frames = some_frames(sheet).astype(np.float32)
    down, across = (np.array(axis.lines(), int) for axis in pair)
    padded = np.zeros(frames.shape[1:3], bool)
    padded[down] = True
    padded[:, across] = True
    if padded.all() or not padded.any():
        return True
    blurred = _is_scaled(pair)
    for colour in (np.median(frames[:, padded], axis=(0, 1)), 0.0, 255.0):
        apart = np.abs(frames - colour)
        distances = sum(apart[..., channel] for channel in range(apart.shape[-1])).mean(axis=0) / apart.shape[-1]
        usual = distances[~padded].mean()
        # the worst line decides: what is of one colour on all lines but one is no padding
        worst = max(_of_lines(distances, down, blurred) + _of_lines(distances.T, across, blurred))
        if worst <= (MUCH_BLURRED if blurred else MUCH) * usual:
            return True
    return False


def _of_lines(distances, lines, blurred):
    """Mean distance from a colour along each line; the least of three neighbours where scaling has moved it."""
    means = distances.mean(axis=1)
    if not blurred:
        return [means[line] for line in lines]
    return [means[max(line - 1, 0) : line + 2].min() for line in lines]
