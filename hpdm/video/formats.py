"""Which files are videos, pictures and arrays: suffixes for listing, first bytes for opening.

Listing goes by suffix, opening by content: a file is handed to the one demuxer that its first bytes announce and to no
other. So a `.mp4` that is WebM inside is read, and a text file that names other files or addresses (a playlist) is not.
"""

import os
from pathlib import PurePath
from typing import Any

DEFAULT_CRF = 17  # of H.264: about where compression stops being visible; libx264's own default is 23

VIDEO_SUFFIXES = (
    ".3g2",
    ".3gp",
    ".asf",
    ".avi",
    ".divx",
    ".f4v",
    ".flv",
    ".gif",
    ".ivf",
    ".m2ts",
    ".m2v",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
    ".mxf",
    ".nut",
    ".ogv",
    ".qt",
    ".ts",
    ".vob",
    ".webm",
    ".wmv",
    ".y4m",
)
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
ARRAY_SUFFIXES = (".npy", ".npz", ".pt")
ARCHIVE_SUFFIXES = (".tar", ".zip")

HEAD_BYTES = 4096  # a transport stream is recognised by the spacing of its packets

_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"styp", b"moof")
_BEGINNINGS = (
    (b"\x1aE\xdf\xa3", "matroska", "Matroska/WebM"),
    (b"GIF87a", "gif", "GIF"),
    (b"GIF89a", "gif", "GIF"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf", "ASF/WMV"),
    (b"FLV\x01", "flv", "FLV"),
    (b"OggS", "ogg", "Ogg"),
    (b"\x00\x00\x01\xba", "mpeg", "MPEG program stream"),
    (b"\x00\x00\x01\xb3", "mpegvideo", "MPEG video"),
    (b"YUV4MPEG2", "yuv4mpegpipe", "YUV4MPEG"),
    (b"DKIF", "ivf", "IVF"),
    (b"nut/multimedia container", "nut", "NUT"),
    (b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02", "mxf", "MXF"),
)
_TS_PACKETS = ((188, 0), (192, 4), (204, 0))  # bytes per packet of a transport stream, and before its sync byte


def suffix(name: str | PurePath) -> str:
    """Suffix of a file's name in lower case, as the tuples above hold them."""
    return PurePath(name).suffix.lower()


def is_video(name: str) -> bool:
    """Whether a name says video."""
    return suffix(name) in VIDEO_SUFFIXES


def is_image(name: str) -> bool:
    """Whether a name says picture (a `.gif` is a video)."""
    return suffix(name) in IMAGE_SUFFIXES


def container(path: Any) -> tuple[str, str] | None:
    """(FFmpeg's demuxer, name for people) of the video container that a file's first bytes announce, or None.

    path: of the file, or its content as bytes. Raises OSError where the file cannot be read.
    """
    if isinstance(path, bytes):
        head = path[:HEAD_BYTES]
    else:
        with open(os.fspath(path), "rb") as file:
            head = file.read(HEAD_BYTES)
    if head[4:8] in _ISO_BOXES:
        return "mov", "MP4/MOV"
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"AVIX"):
        return "avi", "AVI"
    for beginning, demuxer, name in _BEGINNINGS:
        if head.startswith(beginning):
            return demuxer, name
    for size, before in _TS_PACKETS:
        sync = head[before::size]
        if len(sync) > 2 and set(sync) == {0x47}:
            return "mpegts", "MPEG transport stream"
    return None
