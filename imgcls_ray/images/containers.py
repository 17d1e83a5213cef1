"""Check that a file is complete, before a decoder fills its missing part with guessed pixels."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.boxes import iter_file_boxes
from imgcls_ray.images.limits import max_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

_PNG_SIGNATURE_BYTES = 8
# The chunks that make pixels. The rest is dropped unread: text that inflates to gigabytes, colour profiles, animation.
_PNG_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"})
# Beside the data: of each kind a file has one.
_MAX_PNG_HEAD_CHUNKS = 1_000
_PNG_SIZE_AT = 16
_FEW_PNG_CHUNKS = 5_000
_WEBP_CHUNK_AT, _WEBP_ANIMATED, _FEW_WEBP_CHUNKS = 12, 2, 32
_BMFF_INDEX_BOXES = frozenset({b"meta", b"moov"})


def keep_pixel_chunks(png: bytes) -> bytes:
    """Return the PNG with only the chunks that its pixels and orientation need, and with one data chunk.

    Raises:
        ImageError: ``truncated`` where the file ends before its ``IEND`` chunk, ``corrupt`` where the checksum of a
            needed chunk is wrong (Pillow notices that in some places only), or where there are more chunks than the
            picture's size explains.
    """
    view = memoryview(png)
    kept = [view[:_PNG_SIGNATURE_BYTES]]
    num_head_chunks = 0
    data: list[memoryview] = []
    for kind, start, end in _png_chunks(png):
        if kind not in _PNG_PIXEL_CHUNKS:
            continue
        if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise ImageError(ImageErrorCode.CORRUPT, f"the checksum of a PNG chunk {kind.decode()} is wrong")
        if kind == b"IDAT":
            data.append(view[start + 8 : end - 4])
            continue
        if data:
            kept += _join_data(data)
            data = []
        kept.append(view[start:end])
        num_head_chunks += 1
        if num_head_chunks > _MAX_PNG_HEAD_CHUNKS:
            raise ImageError(ImageErrorCode.CORRUPT, f"more than {_MAX_PNG_HEAD_CHUNKS} PNG chunks beside the data")
    return b"".join(kept)


def _join_data(parts: list[memoryview]) -> list[memoryview]:
    """One chunk of data instead of several: Pillow takes each by itself, in Python."""
    checksum = zlib.crc32(b"IDAT")
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    head = struct.pack(">I4s", sum(map(len, parts)), b"IDAT")
    return [memoryview(head), *parts, memoryview(checksum.to_bytes(4, "big"))]


def keep_head(png: bytes) -> bytes:
    """Return a PNG, which must be complete, without its pixel data: only the chunks that say how it is read."""
    view = memoryview(png)
    chunks = [view[start:end] for kind, start, end in _png_chunks(png) if kind in _PNG_PIXEL_CHUNKS - {b"IDAT"}]
    return b"".join([view[:_PNG_SIGNATURE_BYTES], *chunks])


def read_png_exif(png: bytes) -> list[bytes]:
    """The EXIF blocks of a PNG that is known to be whole, in their order."""
    return [png[start + 8 : end - 4] for kind, start, end in _png_chunks(png) if kind == b"eXIf"]


def _png_chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    position = _PNG_SIGNATURE_BYTES
    kind = b""
    width, height = read_png_size(png)
    most = max_pieces(width, height)
    num_chunks = 0
    while kind != b"IEND":
        num_chunks += 1
        if num_chunks > most:
            raise ImageError(ImageErrorCode.CORRUPT, f"more than {most} PNG chunks for {width} x {height} pixels")
        if position + 12 > len(png):
            raise ImageError(ImageErrorCode.TRUNCATED, "the PNG ends before its IEND chunk")
        length, kind = struct.unpack_from(">I4s", png, position)
        end = position + 12 + length
        if end > len(png):
            raise ImageError(ImageErrorCode.TRUNCATED, "the PNG ends inside a chunk")
        yield kind, position, end
        position = end


def read_png_size(png: bytes) -> tuple[int, int]:
    """Width and height as the header gives them; 0 where the file ends before."""
    head = png[_PNG_SIZE_AT : _PNG_SIZE_AT + 8]
    return int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")


def has_few_png_chunks(png: bytes) -> bool:
    """Whether a PNG ends after a few thousand chunks, as one of 30 MB does that libpng wrote."""
    position = _PNG_SIGNATURE_BYTES
    for _ in range(_FEW_PNG_CHUNKS):
        if png[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + int.from_bytes(png[position : position + 4], "big")
        if position + 8 > len(png):
            break
    return False


def read_webp_size(webp: bytes) -> tuple[int, int]:
    """Width and height in the first chunk (of the canvas, if there is one); 0 if it has none."""
    kind, head = webp[_WEBP_CHUNK_AT : _WEBP_CHUNK_AT + 4], webp[_WEBP_CHUNK_AT + 8 : _WEBP_CHUNK_AT + 18]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8 ":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return 0, 0


def is_still_webp(webp: bytes) -> bool:
    """Whether a WebP is no animation, and has the few chunks that such a file has."""
    is_extended = webp[_WEBP_CHUNK_AT : _WEBP_CHUNK_AT + 4] == b"VP8X"
    if is_extended and webp[_WEBP_CHUNK_AT + 8] & _WEBP_ANIMATED:
        return False
    position = _WEBP_CHUNK_AT
    for _ in range(_FEW_WEBP_CHUNKS):
        if position >= len(webp):
            return True
        size = int.from_bytes(webp[position + 4 : position + 8], "little")
        position += 8 + size + size % 2
    return False


def check_riff_complete(riff: bytes) -> None:
    """Raise ``truncated`` where a RIFF file (WebP) is shorter than it says."""
    declared = 8 + int.from_bytes(riff[4:8], "little")
    if declared > len(riff):
        raise ImageError(ImageErrorCode.TRUNCATED, f"{len(riff)} of {declared} bytes")


def check_bmff_complete(bmff: bytes, name: str) -> None:
    """Raise ``truncated`` where an ISO media file (AVIF, HEIF) ends inside one of its boxes or before its index."""
    kinds = set()
    for kind, start, end in iter_file_boxes(bmff, name):
        if end < start:  # damage, and for the decoder to say what kind
            return
        kinds.add(kind)
    if kinds.isdisjoint(_BMFF_INDEX_BOXES):
        raise ImageError(ImageErrorCode.TRUNCATED, f"the {name} ends before its index")
