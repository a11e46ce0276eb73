"""The outside of a photo's file: which format it is, and whether its parts are in order.

A walk over segments and chunks, without any decoding. Pillow walks them in Python too, but without bounds: ten
megabytes of empty segments would hold it, and the process that answers HTTP, for seconds.
"""

from __future__ import annotations

import struct
import zlib

from instantid_serve.errors import ImageCorruptError, ImageFormatError
from instantid_serve.messages import ImageFormat

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SHORTEST_SIGNATURE = 12
_HEIC_BRANDS = {b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"}

_MAX_CHUNKS = 10_000  # a 10 MB PNG in the usual 8 KiB pieces has 1,280
_CHUNK_FRAME_BYTES = 12  # length, kind and checksum around a chunk's body

_MAX_SEGMENTS = 2_000  # the metadata of a 10 MB JPEG in full 64 KiB segments are 160
_MARKER = 0xFF
_START_OF_SCAN = 0xDA
_FRAME_MARKERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_READABLE_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, Huffman-coded: what cameras write
# A progressive JPEG may repeat a scan over all its pixels thousands of times in few bytes. Encoders use about ten.
_MAX_SCANNED_PIXELS = 500_000_000


def sniff(data: bytes) -> ImageFormat:
    """Return the format that the first bytes show.

    Raises ImageFormatError for any other, and ImageCorruptError where there are too few bytes to tell.
    """
    if len(data) < _SHORTEST_SIGNATURE:
        raise ImageCorruptError("the photo is empty or cut off")
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(_PNG_SIGNATURE):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    advice = {"advice": "send a JPEG, a PNG or a WebP"}
    if data[4:12] in _HEIC_BRANDS:
        raise ImageFormatError("the photo is a HEIC file, as iPhones save them; export it as a JPEG", advice)
    raise ImageFormatError("the photo is not a JPEG, PNG or WebP", advice)


def check_structure(data: bytes, image_format: ImageFormat) -> None:
    """Raise ImageCorruptError unless the file's parts follow each other soundly. A WebP is left to its C parser."""
    try:
        if image_format == "png":
            _check_chunks(data)
        elif image_format == "jpeg":
            _check_segments(data)
    except (IndexError, struct.error) as error:
        raise ImageCorruptError("the photo is cut off") from error


def check_scans(data: bytes, pixels: int) -> None:
    """Raise ImageCorruptError if a JPEG of so many pixels draws itself over and over."""
    scans = data.count(bytes([_MARKER, _START_OF_SCAN]))
    if scans > 1 and scans * pixels > _MAX_SCANNED_PIXELS:
        raise ImageCorruptError("the photo's JPEG repeats its scans beyond reason", {"scans": scans})


def _check_chunks(data: bytes) -> None:
    at = len(_PNG_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, at)
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(memoryview(data)[at + 4 : at + 8 + length]) != checksum:
            raise ImageCorruptError("the photo's PNG has a wrong checksum")
        if kind == b"IEND":
            return
        at += length + _CHUNK_FRAME_BYTES
    raise ImageCorruptError(f"the photo's PNG has more than {_MAX_CHUNKS} chunks")


def _check_segments(data: bytes) -> None:
    at = 2
    for _ in range(_MAX_SEGMENTS):
        if data[at] != _MARKER or data[at + 1] in {0x00, _MARKER}:
            at += 1  # padding, which some cameras leave
            continue
        marker = data[at + 1]
        if marker == _START_OF_SCAN:
            return
        if marker in _FRAME_MARKERS - _READABLE_FRAMES:
            raise ImageCorruptError("the photo is a JPEG of a kind that is not read (arithmetic or lossless)")
        (length,) = struct.unpack_from(">H", data, at + 2)
        at += 2 + length
    raise ImageCorruptError("the photo's JPEG has more segments than a photo needs")
