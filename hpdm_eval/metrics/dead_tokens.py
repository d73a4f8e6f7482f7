"""Dead tokens: blocks of a generated video that a detokenizer got wrong, such as 4x4 squares in a single frame.

A token covers t x h x w samples of the video, on a lattice that starts at the video's corner. A dead one stands out
from all four sides at once and exactly at its borders, which natural detail that happens to be as small does not:
detail is not aligned to the lattice, and is blurred by lens, resizing and codec. For each token two scores are taken,
on the mean over its frames, both as multiples of what is usual around it:

- `tone`: the steps across its four sides (each the mean over the side of the difference of the adjoining pixels less
  half the slopes on both sides of it), all up or all down in the same colour channel; the smallest of the four. 0
  where that is below `BASE`.
- `texture`: the mean size of the second differences inside the token, the smaller of both directions, against the
  largest among its eight neighbours: a token of noise in smoother surroundings.

Of 19.4 million tokens of 1x4x4 in 179 real UCF-101 clips, 1.6 in a million pass `THRESHOLDS` (95 % interval 0.5 to
4.1; they sit in seven clips, as still detail comes back in every frame); `FALSE_POSITIVES` states the upper end. The
same search on the lattice moved by half a token says what the clips at hand hold by nature.

    T frames, H rows, W columns; clips are uint8 [T,H,W,3]; F x R x K tokens
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from hpdm.support.errors import InputError

KINDS = ("tone", "texture")
THRESHOLDS = {"tone": 6.5, "texture": 12.0}
BASE = {"tone": 2.0, "texture": 2.0}  # grey levels added to what is usual, so that flat areas do not divide by 0
CLUSTER = 8  # dead tokens in one real clip at most, of 179 clips of 24 frames, see `studies/intervals.py`
FALSE_POSITIVES = 4e-6  # of all tokens
SMALLEST = 3  # samples of a token's side that a step and the slope beside it need


@dataclass(frozen=True, kw_only=True, eq=False)
class DeadTokens:
    """Dead tokens of one clip."""

    name: str
    tokens: int  # tokens that were judged
    positions: np.ndarray  # int64 [n, 3]: frame, row, column of the token on its lattice
    scores: np.ndarray  # float32 [n], 1 is at the threshold
    kinds: tuple[str, ...]  # tone or texture, n of them

    @property
    def rate(self) -> float:
        return len(self.positions) / self.tokens


def find_dead_tokens(
    video: np.ndarray,
    token: tuple[int, int, int],
    name: str = "",
    thresholds: Mapping[str, float] | None = None,
    moved: bool = False,
) -> DeadTokens:
    """Dead tokens of a clip, uint8 [T,H,W,3], for `token` = (frames, height, width): DeadTokens, worst first.

    The outermost ring of tokens lacks neighbours and is not judged. Raises InputError for clips under 3 x 3 tokens or
    tokens narrower than 3 pixels. moved: look on the lattice moved by half a token down and right, where none can be;
    on the smallest clips nothing of it is left to judge.
    """
    thresholds = {**THRESHOLDS, **(thresholds or {})}
    frames, height, width = token
    shape = tuple(size // step for size, step in zip(video.shape, token))
    if min(height, width) < SMALLEST:
        raise InputError(f"tokens of {_size(token)}: dead ones can be told from detail from {SMALLEST} pixels up")
    if shape[0] < 1 or min(shape[1:]) < 3:
        raise InputError(f"{name or 'a clip'} of {_size(video.shape[:3])} is too small for tokens of {_size(token)}")
    if moved:
        video = video[:, height // 2 :, width // 2 :]
        shape = tuple(size // step for size, step in zip(video.shape, token))
    positions, scores, kinds = [], [], []
    for index in range(shape[0] if min(shape[1:]) > 2 else 0):
        plane = video[index * frames : (index + 1) * frames].mean(axis=0, dtype=np.float32)
        relative = {kind: score / thresholds[kind] for kind, score in token_scores(plane, height, width).items()}
        best = np.maximum(*(relative[kind] for kind in KINDS))
        for row, column in np.argwhere(best >= 1):
            positions.append((index, row + 1, column + 1))
            scores.append(best[row, column])
            kinds.append(max(KINDS, key=lambda kind: relative[kind][row, column]))
    order = np.argsort([-score for score in scores], kind="stable")
    return DeadTokens(
        name=name,
        tokens=shape[0] * max(shape[1] - 2, 0) * max(shape[2] - 2, 0),
        positions=np.array(positions, dtype=np.int64).reshape(-1, 3)[order],
        scores=np.array(scores, dtype=np.float32)[order],
        kinds=tuple(kinds[index] for index in order),
    )


def rate_interval(rates: ArrayLike, cluster: float, level: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of the mean of `rates`, float [n], one of each clip, where most are 0.

    Dead tokens come in clusters, as still detail returns in every frame, so what is counted are clips that have any:
    each is a Poisson event of its own weight, and the mean a weighted sum of such events, for which the gamma interval
    of Fay and Feuer (Statistics in Medicine 16, 1997) holds. One event more, as heavy as the heaviest seen and at least
    `cluster`, stands for what the clips may have missed: without any dead token the upper end is that of a Poisson
    count of 0, 3.7 clusters in n clips at 95 % (the rule of three, two-sided), and the lower end 0.

    cluster: rate of a clip with as many dead tokens as a real one may have; `cluster_rate` gives it.
    """
    rates = np.asarray(rates, np.float64)
    weights = rates[rates > 0] / len(rates)
    total, variance = weights.sum(), np.square(weights).sum()
    heaviest = max(weights.max(initial=0.0), cluster / len(rates))
    tail = (1 - level) / 2
    low = 0.0
    if total > 0:
        low = variance / (2 * total) * stats.chi2.ppf(tail, 2 * total**2 / variance)
    total, variance = total + heaviest, variance + heaviest**2
    high = variance / (2 * total) * stats.chi2.ppf(1 - tail, 2 * total**2 / variance)
    return float(low), float(high)


def cluster_rate(tokens: float) -> float:
    """Rate of a clip of so many judged tokens that holds `CLUSTER` dead ones, for `rate_interval`."""
    return CLUSTER / tokens


def token_scores(plane: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
    """Scores of the inner tokens of one frame, float [H,W,3]: {kind: float32 [R-2, K-2]}."""
    rows, columns = plane.shape[0] // height, plane.shape[1] // width
    plane = np.asarray(plane[: rows * height, : columns * width], dtype=np.float32)
    above = _border_steps(plane, height, width)
    left = _border_steps(plane.transpose(1, 0, 2), width, height).transpose(1, 0, 2)
    return {"tone": _tone(above, left), "texture": _texture(plane, height, width)}


def _border_steps(plane, period, across):
    """Mean step over each side between vertically adjoining tokens: [R-1, K, 3]; up is positive."""
    lines = np.arange(period, plane.shape[0], period)
    step = plane[lines] - plane[lines - 1]
    slopes = (plane[lines - 1] - plane[lines - 2]) + (plane[lines + 1] - plane[lines])
    step = step - slopes / 2
    return step.reshape(len(lines), -1, across, 3).mean(axis=2)


def _tone(vertical, horizontal):
    """vertical [R-1, K, 3], horizontal [R, K-1, 3] → [R-2, K-2]."""
    top, bottom = vertical[:-1, 1:-1], -vertical[1:, 1:-1]
    left, right = horizontal[1:-1, :-1], -horizontal[1:-1, 1:]
    sides = np.stack([top, bottom, left, right])
    raised, lowered = sides.min(axis=0), (-sides).min(axis=0)
    size = np.maximum(np.maximum(raised, lowered), 0)
    # most tokens have no such side; the median, which costs the most, is taken for the others alone
    rows, columns = np.nonzero(size.max(axis=-1) > BASE["tone"])
    score = np.zeros(size.shape[:2], dtype=np.float32)
    usual = _around(np.abs(vertical), np.abs(horizontal), rows, columns)
    score[rows, columns] = (size[rows, columns] / (BASE["tone"] + usual)).max(axis=-1)
    return score


def _around(vertical, horizontal, rows, columns):
    """Median size of the steps between the neighbours of inner tokens, their own sides left out: [n, 3]."""
    sides = [vertical[rows + i, columns + j] for i in (0, 1) for j in (0, 2)]
    sides += [horizontal[rows + i, columns + j] for i in (0, 2) for j in (0, 1)]
    return np.median(sides, axis=0)


def _texture(plane, height, width):
    """Second differences inside each token against those of its neighbours: [R-2, K-2]."""
    tokens = plane.reshape(plane.shape[0] // height, height, plane.shape[1] // width, width, 3)
    down = np.abs(np.diff(tokens, n=2, axis=1)).mean(axis=(1, 3))
    right = np.abs(np.diff(tokens, n=2, axis=3)).mean(axis=(1, 3))
    size = np.minimum(down, right).max(axis=-1)
    rows, columns = size.shape[0] - 2, size.shape[1] - 2
    around = [size[i : i + rows, j : j + columns] for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    return size[1:-1, 1:-1] / (BASE["texture"] + np.max(around, axis=0))


def _size(shape):
    return "x".join(map(str, shape))
