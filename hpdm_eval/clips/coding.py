"""How a video file was compressed, read from its packets without decoding: the codec and the frames it starts over at.

Compression leaves steps of its own: between the blocks of a picture, and in time at key frames, which owe nothing to
the frame before. A measurement of steps has to know where those are.
"""

import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hpdm.video.formats import VIDEO_SUFFIXES

# Codecs whose larger squares leave larger steps: at 16, 32 and 64 pixels. The squares of HEVC and VP9 do not, measured.
LARGE_BLOCKS = {"av1": 64, "vvc": 128}
MACROBLOCK = 16  # of MPEG-1 to MPEG-4, H.264, VP8, and the minimum coded unit of JPEG with halved colour


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How one file is compressed."""

    codec: str  # FFmpeg's name, such as "h264"
    sizes: tuple[int, ...]  # bytes of each frame, in the order of display
    key_frames: tuple[int, ...]  # numbers in the order of display; 0 is nearly always one

    @property
    def block(self) -> int:
        """Pixels after which all that the codec's squares leave repeats."""
        return LARGE_BLOCKS.get(self.codec, MACROBLOCK)

    @property
    def intra(self) -> bool:
        """Whether every frame is compressed alone, so that no frame differs from the others."""
        return len(self.key_frames) == len(self.sizes)

    @property
    def inner_keys(self) -> tuple[int, ...]:
        """Key frames other than the first, of a file in which not all are: where a step in time is the codec's."""
        return () if self.intra else tuple(number for number in self.key_frames if number)


def read_coding(file: str | os.PathLike | IO[bytes]) -> Coding | None:
    """The Coding of a video: a path, or a file object. None where it cannot be read."""
    try:
        from hpdm.video.packets import open_container

        with open_container(file) as container:
            stream = container.streams.video[0]
            packets = [
                (packet.dts if packet.pts is None else packet.pts, packet.is_keyframe, packet.size)
                for packet in container.demux(stream)
                if packet.size and not packet.is_discard
            ]
            codec = stream.codec_context.name
    except Exception:  # damaged files raise nearly anything, and are rejected with a reason where they are decoded
        return None
    if all(packet[0] is not None for packet in packets):
        packets.sort(key=lambda packet: packet[0])
    return Coding(
        codec=_DECODERS.get(codec, codec),
        sizes=tuple(size for _, _, size in packets),
        key_frames=tuple(number for number, (_, key, _) in enumerate(packets) if key),
    )


_DECODERS = {"libdav1d": "av1", "libaom-av1": "av1", "libvpx-vp9": "vp9", "libsvtav1": "av1"}  # decoders by format


class Codings:
    """Codings of the clips under `root`, by clip name as `open_clips` gives them: `codings.of("a/b.mp4#3")`."""

    def __init__(self, root: str | os.PathLike) -> None:
        self._root, self._found = Path(root), {}

    def of(self, name: str) -> Coding | None:
        """The Coding of a clip's file; None for frames, arrays, and what cannot be found."""
        name = re.sub(r"#\d+$", "", name)  # the number of a clip; names may hold a # as well
        if name not in self._found:
            self._found[name] = self._read(name)
        return self._found[name]

    def _read(self, name):
        if not name.lower().endswith(VIDEO_SUFFIXES):
            return None
        if self._root.is_dir() or self._root.suffix.lower() == ".txt":  # a list of files
            return self._of_folder(name)
        if self._root.suffix.lower() == ".zip":
            return _of_archive(self._root, name)
        return read_coding(self._root)

    def _of_folder(self, name):
        root = self._root if self._root.is_dir() else self._root.parent
        path = root / name
        if path.is_file():
            return read_coding(path)
        parts = name.split("/")  # a zip inside the folder is listed as a folder of that name
        for depth in range(1, len(parts)):
            archive = root.joinpath(*parts[:depth])
            if archive.suffix.lower() == ".zip" and archive.is_file():
                return _of_archive(archive, "/".join(parts[depth:]))
        return None


def _of_archive(path, name):
    """The member that a clip's name means; an archive made of one folder leaves that folder out of its names."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.namelist() if member == name or member.endswith("/" + name)]
            if len(members) != 1:
                return None
            with archive.open(members[0]) as file:
                return read_coding(file)
    except Exception:  # as above: said where the clips are decoded
        return None
