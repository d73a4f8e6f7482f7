"""Opening and reading clips in tests."""

import numpy as np
from PIL import Image

from hpdm_eval.clips.source import open_clips
from hpdm_eval.protocols import load_protocol

NATIVE = load_protocol("native")
CODECS = {
    ".mp4": {},
    ".mov": {},
    ".mkv": {},
    ".avi": {"codec": "mpeg4"},
    ".webm": {"codec": "libvpx"},
    ".gif": {"codec": "gif", "pixel_format": "rgb8"},
}


def read(path, protocol=NATIVE, **options):
    """(source after one iteration, clips by name)."""
    source = open_clips(path, protocol, **{"workers": 0, "quiet": True, **options})
    found = {clip.name: clip for clip in source}
    assert len(found) == source.accepted
    return source, found


def reasons(source):
    return {entry["path"]: entry["reason"] for entry in source.rejected}


def random_clips(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_frames(folder, video, suffix="png", name="frame{}"):
    folder.mkdir(parents=True)
    for t, frame in enumerate(video):
        Image.fromarray(frame).save(folder / f"{name.format(t + 1)}.{suffix}")
