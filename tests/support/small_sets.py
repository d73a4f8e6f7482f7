"""Small sets of clips, in memory and in a folder, for tests of evaluations from Python."""

import numpy as np

from hpdm.data.procedural import procedural_clip

# enough clips for an interval; the shipped network sees them at 64 pixels
SMALL = {"protocol": "generic-16f", "backbone": "shapes3d", "frames": 6, "resolution": (24, 20), "start": "first"}
COUNT = 42


def draw(count=COUNT, seed=0, frames=7, height=26, width=22):
    """Procedural clips uint8 [count, frames, height, width, 3]."""
    return np.stack([procedural_clip(seed, index, frames, height, width)[0] for index in range(count)])


def save(folder, clips):
    """Write each clip into a .npy file of its own, in their order; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, clip in enumerate(clips):
        np.save(folder / f"{number:04d}.npy", clip)
    return folder


def without_surroundings(record):
    """What a record says of the figure: without its command, its time, and where its clips are."""
    values = record if isinstance(record, dict) else record.to_dict()
    values = {key: value for key, value in values.items() if key not in ("command", "created", "seconds")}
    for role in ("samples", "reference"):
        if values[role]:
            values[role] = {key: value for key, value in values[role].items() if key != "path"}
    return values
