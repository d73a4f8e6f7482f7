"""Small video files for tests: flat grey frames whose level tells their number."""

import av
import numpy as np

LEVELS = 4  # grey levels between neighbouring frames, more than any codec used here moves


def grey_clip(frames, height=48, width=64, first=0):
    """uint8 [frames, height, width, 3]; frame i is grey of level 4 * (first + i)."""
    levels = (LEVELS * (first + np.arange(frames))).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (frames, height, width, 3)).copy()


def frame_numbers(video, first=0):
    """Numbers of the frames of a clip made by `grey_clip`; [T] from any array with T first after the colours."""
    return np.rint(np.asarray(video, dtype=np.float64).mean(axis=(-2, -1)) / LEVELS).astype(int) - first


def write_video(path, frames, fps=25, codec="libx264", pixel_format="yuv420p"):
    """Write uint8 [T,H,W,3] to `path`; the container follows the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixel_format
        stream.codec_context.thread_count = 1
        if codec.startswith("libx264"):
            stream.options = {"crf": "4", "preset": "ultrafast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
