"""Video files in which every frame carries its number in its pixels, in all the forms that make readers count wrong.

    n frames of the file; the picture is 4 x 3 cells: white, black, then ten bits, most significant first

A `Case` says how a file is made and what a player shows of it: the numbers in order, and when. Files are written by
PyAV's encoders and small edits of what they put out, so nothing but this package is needed to make them.
"""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

COLUMNS, ROWS, BITS = 4, 3, 10
BLACK, WHITE = 24, 232


@dataclass(frozen=True, kw_only=True)
class Case:
    """One file: `name` holds its suffix.

    times: seconds of each frame, None for even ones. rotation: degrees counter-clockwise by which players turn the
    stored picture, mirrored: whether they mirror it then; it is stored the other way round. edit: what is done to the
    encoded file, a key of `EDITS`.
    """

    name: str
    codec: str
    frames: int = 60
    height: int = 72
    width: int = 96
    pixels: str = "yuv420p"
    fps: int = 25
    gop: int | None = None
    b_frames: int | None = None
    options: dict = field(default_factory=dict)
    times: tuple | None = None
    rotation: int = 0
    mirrored: bool = False
    edit: str | None = None

    @property
    def kind(self) -> str:
        """Container and codec, for tables."""
        return f"{Path(self.name).suffix[1:]} {self.codec}"


def numbered_picture(number: int, height: int, width: int) -> np.ndarray:
    """uint8 [H,W,3] that shows `number` (0..1023), the same when neither mirrored nor turned alone."""
    bits = [1, 0, *((number >> place) & 1 for place in reversed(range(BITS)))]
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    cells = np.array(bits, np.uint8).reshape(ROWS, COLUMNS)[rows[:, None], columns[None]]
    return np.repeat((BLACK + cells * (WHITE - BLACK))[..., None], 3, axis=-1).astype(np.uint8)


def number_of(picture: np.ndarray) -> int:
    """The number that a picture [H,W,3] shows; -1 where it shows none, or is not upright."""
    height, width = picture.shape[:2]
    rows = (np.arange(ROWS) * 2 + 1) * height // (2 * ROWS)
    columns = (np.arange(COLUMNS) * 2 + 1) * width // (2 * COLUMNS)
    bits = (picture[rows[:, None], columns[None]].mean(axis=-1).ravel() > 128).astype(int)
    if tuple(bits[:2]) != (1, 0):
        return -1
    return int("".join(map(str, bits[2:])), 2)


def all_cases() -> list[Case]:
    """Every Case of the matrix, names unique."""
    return (*_h264(), *_other_codecs(), *_times_and_shapes(), *_edits())


def write_case(case: Case, folder: Path) -> tuple[Path, list[int]]:
    """Write the file; returns (path, the numbers that it shows in order)."""
    path = Path(folder, case.name)
    if case.edit is None:
        _encode(case, path)
        return path, list(range(case.frames))
    return path, EDITS[case.edit](case, path)


def write_pictures(case: Case, path: Path, pictures: np.ndarray) -> Any:
    """Write `pictures`, uint8 [T,H,W,3] of the case's size, the way the case is encoded."""
    _encode(case, path, pictures)


def _encode(case, path, pictures=None, **container):
    with av.open(str(path), "w", **container) as output:
        stream = output.add_stream(case.codec, rate=case.fps, options=case.options)
        stream.height, stream.width = _stored_size(case)
        stream.pix_fmt = case.pixels
        stream.codec_context.thread_count = 1
        if case.gop:
            stream.codec_context.gop_size = case.gop
        if case.b_frames is not None:
            stream.codec_context.max_b_frames = case.b_frames
        if case.times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if case.rotation or case.mirrored:
            stream.set_display_rotation(case.rotation, hflip=case.mirrored)
        for number in range(case.frames):
            picture = _stored(case, number) if pictures is None else pictures[number]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if case.times:
                frame.pts, frame.time_base = round(case.times[number] * 1000), Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def _stored_size(case):
    return (case.width, case.height) if case.rotation % 180 else (case.height, case.width)


def _stored(case, number):
    picture = numbered_picture(number, case.height, case.width)
    picture = np.rot90(picture, -(case.rotation // 90))
    return np.ascontiguousarray(picture[:, ::-1] if case.mirrored else picture)


def _h264():
    for suffix in ("mp4", "mkv", "avi", "ts", "flv"):
        for gop, b_frames, is_open in ((12, 0, False), (12, 3, False), (12, 3, True), (250, 2, False)):
            parameters = f"keyint={gop}:min-keyint={min(gop, 12)}:bframes={b_frames}:open-gop={int(is_open)}:scenecut=0"
            yield Case(
                name=f"h264-g{gop}-b{b_frames}{'-open' * is_open}.{suffix}",
                codec="libx264",
                options={"preset": "veryfast", "x264-params": parameters + ":b-adapt=0"},
            )
    refresh = {"preset": "veryfast", "x264-params": "keyint=20:intra-refresh=1:bframes=0"}
    yield Case(name="h264-intra-refresh.mp4", codec="libx264", options=refresh)
    yield Case(name="h264-intra-refresh.mkv", codec="libx264", options=refresh)
    yield Case(name="h264-interlaced.ts", codec="libx264", options={"x264-params": "tff=1:keyint=12:bframes=2"})
    yield Case(name="h264-zerolatency.mov", codec="libx264", options={"tune": "zerolatency"}, gop=15)
    yield Case(name="h264.3gp", codec="libx264", gop=30, b_frames=2)
    yield Case(name="h264.m4v", codec="libx264", gop=8, b_frames=1)


def _other_codecs():
    for suffix in ("mp4", "mkv", "ts"):
        for is_open in (0, 1):
            parameters = f"keyint=12:min-keyint=12:bframes=3:b-adapt=0:open-gop={is_open}:scenecut=0:log-level=none"
            yield Case(
                name=f"hevc{'-open' * is_open}.{suffix}",
                codec="libx265",
                options={"preset": "ultrafast", "x265-params": parameters + ":pools=none:frame-threads=1"},
            )
    for suffix in ("mp4", "avi", "mkv"):
        for b_frames in (0, 2):
            yield Case(name=f"mpeg4-b{b_frames}.{suffix}", codec="mpeg4", gop=12, b_frames=b_frames)
    for suffix in ("mpg", "ts", "vob", "mkv", "avi"):
        yield Case(name=f"mpeg2.{suffix}", codec="mpeg2video", gop=12, b_frames=2)
    yield Case(name="mpeg1.mpg", codec="mpeg1video", gop=10, b_frames=1)
    yield Case(
        name="vp8.webm",
        codec="libvpx",
        gop=20,
        options={"deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "16"},
    )
    for suffix in ("webm", "mp4", "ivf"):
        yield Case(
            name=f"vp9.{suffix}",
            codec="libvpx-vp9",
            gop=20,
            options={"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"},
        )
    for suffix in ("mp4", "mkv", "webm"):
        yield Case(
            name=f"av1.{suffix}",
            codec="libsvtav1",
            gop=16,
            options={"preset": "8", "crf": "10", "svtav1-params": "lp=1"},
        )
    for suffix in ("avi", "mov", "mkv"):
        yield Case(name=f"mjpeg.{suffix}", codec="mjpeg", pixels="yuvj420p")
    yield Case(name="ffv1.mkv", codec="ffv1", gop=10)
    yield Case(name="ffv1.avi", codec="ffv1", gop=10)
    yield Case(name="ffv1.nut", codec="ffv1", gop=10)
    yield Case(name="wmv2.wmv", codec="wmv2", gop=12)
    yield Case(name="wmv2.avi", codec="wmv2", gop=12)
    yield Case(name="msmpeg4.avi", codec="msmpeg4", gop=12)
    yield Case(name="sorenson.flv", codec="flv", gop=12)
    yield Case(name="h263.3gp", codec="h263", gop=12, height=144, width=176)
    yield Case(name="even.gif", codec="gif", pixels="rgb8")
    yield Case(name="prores.mov", codec="prores_ks", pixels="yuv422p10le")
    yield Case(name="raw.y4m", codec="rawvideo")
    yield Case(name="raw.avi", codec="rawvideo", pixels="bgr24")
    yield Case(name="png.mov", codec="png", pixels="rgb24")
    yield Case(name="huffyuv.avi", codec="huffyuv", pixels="yuv422p")
    yield Case(name="animation.mov", codec="qtrle", pixels="rgb24")


def _times_and_shapes():
    jumps = np.cumsum([0, *(0.02 if number < 30 else 0.08 for number in range(59))])
    for name, codec, more in (
        ("variable.mp4", "libx264", {"b_frames": 2}),
        ("variable.mkv", "libx264", {}),
        ("variable.webm", "libvpx-vp9", {"options": {"deadline": "realtime", "cpu-used": "8"}}),
        ("variable.gif", "gif", {"pixels": "rgb8"}),
    ):
        yield Case(name=name, codec=codec, times=tuple(jumps.tolist()), gop=16, **more)
    for rotation in (90, 180, 270):
        yield Case(name=f"turned-{rotation}.mp4", codec="libx264", rotation=rotation, b_frames=2)
    yield Case(name="turned-90.mov", codec="mjpeg", pixels="yuvj420p", rotation=90)
    yield Case(name="turned-270.mkv", codec="libx264", rotation=270)
    yield Case(name="mirrored.mp4", codec="libx264", mirrored=True)
    odd = {"height": 75, "width": 101}
    yield Case(name="odd.webm", codec="libvpx-vp9", **odd, options={"deadline": "realtime", "cpu-used": "8"})
    yield Case(name="odd.mkv", codec="ffv1", **odd)
    yield Case(name="odd.mp4", codec="libx264", pixels="yuv444p", b_frames=2, **odd)
    yield Case(name="odd.gif", codec="gif", pixels="rgb8", **odd)
    yield Case(name="deep-h264.mp4", codec="libx264", pixels="yuv420p10le", b_frames=2)
    yield Case(
        name="deep-hevc.mkv",
        codec="libx265",
        pixels="yuv420p10le",
        options={"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    )
    yield Case(
        name="deep-av1.webm",
        codec="libsvtav1",
        pixels="yuv420p10le",
        options={"preset": "8", "crf": "10", "svtav1-params": "lp=1"},
    )
    yield Case(name="deep-grey.mkv", codec="ffv1", pixels="gray16le")
    yield Case(name="deep-rgb.mkv", codec="ffv1", pixels="gbrp16le")
    yield Case(name="grey.mp4", codec="libx264", pixels="gray")
    yield Case(name="alpha.mkv", codec="ffv1", pixels="yuva420p")
    yield Case(name="alpha.mov", codec="png", pixels="rgba")


def _edits():
    for b_frames in (0, 3):
        parameters = f"keyint=25:min-keyint=25:bframes={b_frames}:b-adapt=0:scenecut=0"
        base = Case(name="", codec="libx264", frames=100, options={"preset": "veryfast", "x264-params": parameters})
        yield replace(base, name=f"cut-b{b_frames}.mp4", edit="cut")
        yield replace(base, name=f"cut-b{b_frames}.mov", edit="cut")
    yield Case(name="late.mp4", codec="libx264", edit="late", b_frames=2)
    yield Case(name="divx-packed.avi", codec="mpeg4", gop=12, b_frames=1, edit="packed")
    yield Case(name="announced.avi", codec="mpeg4", gop=12, b_frames=0, edit="announced")
    open_gop = {
        "preset": "veryfast",
        "x264-params": "keyint=12:min-keyint=12:bframes=3:b-adapt=0:open-gop=1:scenecut=0",
    }
    yield Case(name="leading.ts", codec="libx264", options=open_gop, edit="leading")
    yield Case(name="leading.mkv", codec="libx264", options=open_gop, edit="leading")
    yield Case(name="leading-mpeg2.ts", codec="mpeg2video", gop=12, b_frames=2, edit="leading")
    yield Case(name="no-times.h264.avi", codec="libx264", options=open_gop)
    yield Case(name="broken-off.mp4", codec="libx264", gop=12, b_frames=2, edit="broken-off")


def _cut(case, path):
    """From a key packet on, with an edit list that hides what comes before frame 40: `ffmpeg -ss -c copy`."""

    def change(packets, stream):
        first = sorted(packet.pts for packet in packets)[40]
        start = max(i for i, packet in enumerate(packets) if packet.is_keyframe and packet.pts <= first)
        return [_moved(packet, -first) for packet in packets[start:]]

    _copy(case, path, change)
    return list(range(40, case.frames))


def _late(case, path):
    """The first frame is shown at 0.4 s: an edit list that begins with nothing."""
    _copy(case, path, lambda packets, stream: [_moved(packet, round(0.4 / stream.time_base)) for packet in packets])
    return list(range(case.frames))


def _leading(case, path):
    """From the second key packet on, whose leading B frames need what was cut away: no player shows them."""
    shown = []

    def change(packets, _):
        start = [i for i, packet in enumerate(packets) if packet.is_keyframe][1]
        order = sorted(packet.pts for packet in packets)
        shown.extend(order.index(packet.pts) for packet in packets[start:] if packet.pts >= packets[start].pts)
        return packets[start:]

    _copy(case, path, change)
    return sorted(shown)


def _packed(case, path):
    """DivX's packed bitstream: a B frame travels in the packet of the frame before, a placeholder in its own."""

    def change(packets, _):
        result = []
        for packet in packets:
            data = bytes(packet)
            place = data.index(_PICTURE)
            if data[place + 4] >> 6 == 2:  # B
                result[-1] = result[-1][0] + data, *result[-1][1:]
                data = _PICTURE + b"\x57\x80"
            elif packet.is_keyframe:
                data = data[:place] + b"\x00\x00\x01\xb2DivX503b1393p" + data[place:]
            result.append((data, packet.dts, packet.is_keyframe))
        return [_new_packet(*entry, packets[0].time_base) for entry in result]

    _copy(case, path, change)
    return list(range(case.frames))


def _announced(case, path):
    """Headers that announce twice the frames."""
    _encode(case, path)
    data = bytearray(path.read_bytes())
    for place in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):
        data[place : place + 4] = (2 * case.frames).to_bytes(4, "little")
    path.write_bytes(data)
    return list(range(case.frames))


def _broken_off(case, path):
    """An index at the beginning, and only seven tenths of the data."""
    _encode(case, path, options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 7 // 10])
    shown = []
    with av.open(str(path)) as file:
        try:
            for frame in file.decode(video=0):
                shown.append(number_of(frame.to_ndarray(format="rgb24")))
        except av.error.InvalidDataError:  # the packet at which the file ends; what waits in the decoder comes below
            shown += [number_of(frame.to_ndarray(format="rgb24")) for frame in file.streams.video[0].decode(None)]
    return shown


EDITS = {
    "cut": _cut,
    "late": _late,
    "leading": _leading,
    "packed": _packed,
    "announced": _announced,
    "broken-off": _broken_off,
}
_PICTURE = b"\x00\x00\x01\xb6"


def _copy(case, path, change):
    """Encode, and write the packets that `change(packets, stream)` makes of the encoder's."""
    whole = path.with_name("whole-" + path.name)
    _encode(case, whole)
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        stream = source.streams.video[0]
        packets = change([packet for packet in source.demux(stream) if packet.size], stream)
        copy = output.add_stream_from_template(stream)
        for packet in packets:
            packet.stream = copy
            output.mux(packet)
    whole.unlink()


def _moved(packet, by):
    packet.pts, packet.dts = packet.pts + by, packet.dts + by
    return packet


def _new_packet(data, dts, key, time_base):
    packet = av.Packet(data)
    packet.pts = packet.dts = dts
    packet.is_keyframe, packet.time_base = key, time_base
    return packet
