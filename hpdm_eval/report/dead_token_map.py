"""Where in the frame dead tokens are, as a picture."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def dead_token_map(positions: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], token: Sequence[int]) -> "Figure":
    """Count of dead tokens at each place of the frame, over the clips of the most frequent size.

    positions: of each clip, int [n, 3] in tokens (frame, row, column); sizes: rows and columns of each clip;
    token: its frames, rows and columns.
    """
    from matplotlib.figure import Figure  # takes a second to import

    (height, width), count = Counter(sizes).most_common(1)[0]
    _, rows, columns = token
    places = np.zeros((height // rows, width // columns))
    for dead, size in zip(positions, sizes):
        if size == (height, width):
            np.add.at(places, tuple(dead[:, 1:].T), 1)
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    panel = figure.subplots()
    image = panel.imshow(places, extent=(0, width, height, 0), cmap="magma", interpolation="nearest")
    panel.set_title(f"dead tokens of {count} clips of {height}x{width}", fontsize=9)
    figure.colorbar(image, ax=panel, label="count")
    return figure
