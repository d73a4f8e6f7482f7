"""CLIPSIM: how close the frames of a video are to its text, as CLIP sees them (GODIVA, arXiv 2104.14806, section 4.2).

T frames, D channels of CLIP's shared space.
"""

import numpy as np
from numpy.typing import ArrayLike


def clip_similarity(frames: ArrayLike, text: ArrayLike) -> float:
    """Mean cosine of frame embeddings [T, D] and a text embedding [D], times 100."""
    frames, text = np.asarray(frames, np.float64), np.asarray(text, np.float64)
    cosines = frames @ text / (np.linalg.norm(frames, axis=1) * np.linalg.norm(text))
    return 100 * float(cosines.mean())
