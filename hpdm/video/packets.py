"""The packets of a video stream: listed once, kept while they are few, decoded from any key packet on.

position: of a packet in the file's order; pts: presentation time in units of the stream's time base
"""

import io
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

av.logging.set_level(av.logging.PANIC)  # what is wrong with a file is said once, by the error

KEPT_BYTES = 64 << 20  # packets of larger files are read again from the disk instead of being kept

# Formats whose times are the decoder's guesses: AVI counts packets, elementary streams count nothing.
WITHOUT_TIMES = {"avi", "mpegvideo", "h264", "hevc"}
# Codecs that put out one frame per packet, in the packets' order, so that counting packets counts frames.
IN_ORDER = {
    "cinepak",
    "dnxhd",
    "dvvideo",
    "ffv1",
    "ffvhuff",
    "flv",
    "h263",
    "huffyuv",
    "jpeg2000",
    "magicyuv",
    "mjpeg",
    "msmpeg4v1",
    "msmpeg4v2",
    "msmpeg4",
    "msmpeg4v3",
    "png",
    "prores",
    "rawvideo",
    "utvideo",
    "wmv1",
    "wmv2",
}
# Packets of these may show nothing, or show again what was there; only the decoder knows.
COUNTED_CODECS = {"theora", "rv10", "rv20", "rv30", "rv40", "vp6", "vp6f"}
_VOP = b"\x00\x00\x01\xb6"  # start of a picture in MPEG-4 part 2
_SMALLEST_VOP = 12  # bytes; a picture that is "not coded" shows nothing and is shorter


# Metadata is often not UTF-8 and never used; from PyAV 19 on it is decoded leniently anyway.
_LENIENT = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}


def open_container(path: Any, demuxer: str | None = None) -> Any:
    """PyAV's container of a path, file object or content in bytes, of the format `demuxer` alone if given."""
    if isinstance(path, bytes):
        path = io.BytesIO(path)
    file = path if hasattr(path, "read") else f"file:{path}"  # without "file:" a name with a colon is a protocol
    return av.open(file, format=demuxer, **_LENIENT)


class NoVideo(Exception):
    """A file that opens but holds no video stream that can be decoded; the message says why."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What demuxing a whole stream has shown.

    shown: pts of the frames that are shown, int64 ascending, where `timed`; then decoding may start at the packets at
    positions `keys`, whose pts `key_pts` ascend. rates: frame rates that the file states. has_times: whether the
    container stores times at all.
    """

    timed: bool
    shown: np.ndarray
    keys: np.ndarray
    key_pts: np.ndarray
    time_base: Fraction
    rates: tuple
    has_times: bool

    def key_before(self, pts: int) -> int:
        """Position of the last key packet that is shown no later than `pts`: frames from its time on follow it."""
        place = int(np.searchsorted(self.key_pts, pts, side="right")) - 1
        return int(self.keys[max(place, 0)])

    def pts_of_key(self, position: int) -> int:
        """pts of the key packet at `position`."""
        return int(self.key_pts[np.searchsorted(self.keys, position)])


class Packets:
    """The first video stream of a file that is no cover picture.

    path: of the file, or its content in bytes. demuxer: FFmpeg's name of the file's format. Raises FFmpeg's errors,
    NoVideo and OSError.
    """

    def __init__(self, path: Any, demuxer: str | None) -> None:
        self._path, self._demuxer = path, demuxer
        self._container, self._stream = self._open()
        self._kept: list[av.Packet] | None = None
        self._pts: list[int | None] | None = None
        # DivX packed a B frame into the packet of the frame before and put an empty packet into its place.
        self._filtered = demuxer == "avi" and self._stream.codec_context.name == "mpeg4"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels that the stream declares."""
        return self._stream.codec_context.height, self._stream.codec_context.width

    def close(self) -> None:
        self._kept = None
        self._container.close()

    def scan(self) -> "Scan":
        """List all packets; returns the Scan."""
        listing = _Listing(self._demuxer, self._stream)
        kept: list[av.Packet] | None = []
        size = 0
        for packet in self._demuxed():
            listing.add(packet)
            size += packet.size
            if size > KEPT_BYTES:
                kept = None
            elif kept is not None:
                kept.append(packet)
        scan = listing.scan(self._stream)
        self._kept, self._pts = kept, listing.pts
        for packet, pts in zip(kept or (), listing.pts):
            packet.pts = pts
        return scan

    def decoded(self, start: int = 0) -> "Decoding":
        """A Decoding of the frames from the packet at position `start` on, after `scan`."""
        return Decoding(self._from(start), lambda: self._stream.codec_context, start)

    def _from(self, start):
        if self._kept is not None:
            yield from self._kept[start:]
        elif start == 0 or not (yield from self._sought(start)):
            yield from self._reread(start)

    def _reread(self, start):
        """Packets from `start` on, having read all before them."""
        self._reopen()
        for position, packet in enumerate(self._demuxed()):
            if position >= start:
                packet.pts = self._pts[position]
                yield packet

    def _sought(self, start):
        """Packets from the key packet at `start` on, by seeking; returns whether the seek led to it."""
        if self._filtered:
            return False
        self._reopen()
        pts, found = self._pts[start], False
        self._container.seek(pts, stream=self._stream, backward=True)
        for packet in self._demuxed():
            if not found and packet.is_keyframe:
                found = packet.pts == pts
                if packet.pts is None or packet.pts > pts:
                    break  # landed behind it
            if found:
                yield packet
        return found

    def _demuxed(self):
        """The stream's packets, each with one picture where a filter can see to that."""
        unpack = BitStreamFilterContext("mpeg4_unpack_bframes", self._stream) if self._filtered else None
        marks_gaps = self._demuxer in ("mpeg", "mpegts")  # these mark packets after a gap, others one cut by the end
        for packet in self._container.demux(self._stream):
            if packet.size and (marks_gaps or not packet.is_corrupt):
                yield from (unpack.filter(packet) if unpack else (packet,))
        if unpack:
            yield from unpack.filter(None)

    def _reopen(self):
        self._container.close()
        self._container, self._stream = self._open()

    def _open(self):
        container = open_container(self._path, self._demuxer)
        try:
            streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            if not streams:
                raise NoVideo("no video stream in it")
            if streams[0].codec_context is None:
                raise NoVideo("its codec is unknown")
            streams[0].codec_context.thread_count = 1
        except BaseException:
            container.close()
            raise
        return container, streams[0]


class Decoding:
    """Iterator over decoded frames; `position` counts the packets that the decoder has been given, from the start."""

    def __init__(self, packets: Generator[av.Packet], codec: Callable[[], Any], start: int) -> None:
        self._packets, self._codec, self.position = packets, codec, start

    def __iter__(self) -> Iterator[Any]:
        codec = None
        with closing(self._packets) as packets:
            for packet in packets:
                if codec is None:
                    codec = self._codec()  # only now: reading packets may have opened the file again
                    codec.flush_buffers()
                self.position += 1
                yield from codec.decode(packet)
        if codec is not None:
            yield from codec.decode(None)


class _Listing:
    """Collects what matters of each packet, and judges whether packets announce frames."""

    def __init__(self, demuxer, stream):
        self.pts, self._keys, self._hidden, self._kinds = [], [], [], []
        self._demuxer, self._codec = demuxer, stream.codec_context.name
        fields = self._codec in ("h264", "mpeg2video", "vc1") and demuxer in ("mpeg", "mpegts")
        interlaced = fields and int(stream.codec_context.field_order or 0) > 1  # a field each packet, perhaps
        self._one_each = self._codec not in COUNTED_CODECS and not interlaced

    def add(self, packet):
        key, hidden = packet.is_keyframe, packet.is_discard
        if packet.is_corrupt:
            self._one_each = False
        if self._codec == "mpeg4":
            kind = _mpeg4_picture(packet)
            key, hidden = key and kind == "I", hidden or kind == ""
            self._kinds.append(kind)
        elif self._codec in ("vp8", "libvpx"):
            hidden = hidden or not bytes(packet)[0] & 0x10  # a picture to predict from, never shown
        elif self._codec == "gif":
            key = key and not self.pts  # each picture is drawn onto the one before, whatever the flags say
        if key:
            self._keys.append(len(self.pts))
        self.pts.append(packet.pts)
        self._hidden.append(hidden)

    def scan(self, stream):
        has_times = self._demuxer not in WITHOUT_TIMES
        timed = self._one_each and None not in self._kinds and self._keys[:1] == [0]
        if self._demuxer == "avi":
            if self._codec == "mpeg4":
                self._order_mpeg4()
            timed = timed and (self._codec == "mpeg4" or self._codec in IN_ORDER)
        timed = timed and None not in self.pts and (has_times or self._demuxer == "avi")
        shown = key_pts = np.zeros(0, np.int64)
        if timed:
            pts = np.array(self.pts, np.int64)
            key_pts = pts[self._keys]
            shown = np.sort(pts[~np.array(self._hidden, bool)])
            timed = bool(
                (np.diff(shown) > 0).all() and (np.diff(key_pts) > 0).all() and shown.size and shown[0] >= key_pts[0]
            )
        return Scan(
            timed=timed,
            shown=shown,
            keys=np.array(self._keys, np.int64),
            key_pts=key_pts,
            time_base=stream.time_base,
            rates=(stream.average_rate, stream.guessed_rate),
            has_times=has_times,
        )

    def _order_mpeg4(self):
        """Number pictures in the order in which they are shown: B at once, others when the next other comes.

        AVI states no times; without B frames its packets are in order, and gaps are frames that were dropped.
        """
        if "B" not in self._kinds:
            return
        order, count, held = [-1] * len(self._kinds), 0, None
        for position, kind in enumerate((*self._kinds, "I")):
            if kind in ("I", "P"):
                if held is not None:
                    order[held], count = count, count + 1
                held = position
            elif kind == "B":
                order[position], count = count, count + 1
        self.pts = order


def _mpeg4_picture(packet):
    """ "I", "P" or "B": the type of an MPEG-4 part 2 packet's picture; "" if it shows nothing, None for several."""
    data = bytes(packet)
    place = data.find(_VOP)
    if place < 0 or len(data) - place < _SMALLEST_VOP:
        return ""
    if data.find(_VOP, place + 4) >= 0:
        return None
    return "IPBP"[data[place + 4] >> 6]  # the fourth kind, with a sprite, predicts forward as well
