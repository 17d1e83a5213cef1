"""Find out from the outside whether a file is whole, before a decoder guesses what its missing part looked like."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageError, ImageErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterator

_PNG_SIGNATURE_BYTES = 8
# The chunks that make pixels. The rest is dropped unread: text that inflates to gigabytes, colour profiles, animation.
_PNG_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"})
_BMFF_INDEX_BOXES = frozenset({b"meta", b"moov"})


def keep_pixel_chunks(png: bytes) -> bytes:
    """Return the PNG with only the chunks that its pixels and orientation need.

    Raises:
        ImageError: ``truncated`` where the file ends before its ``IEND`` chunk, ``corrupt`` where the checksum of a
            needed chunk is wrong: Pillow notices that in some places only.
    """
    view = memoryview(png)
    kept = [view[:_PNG_SIGNATURE_BYTES]]
    for kind, start, end in _png_chunks(png):
        if kind in _PNG_PIXEL_CHUNKS:
            if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
                raise ImageError(ImageErrorCode.CORRUPT, f"the checksum of a PNG chunk {kind.decode()} is wrong")
            kept.append(view[start:end])
    return b"".join(kept)


def keep_head(png: bytes) -> bytes:
    """Return the PNG with only what says how its pixels are to be read, of a file that is known to be whole."""
    view = memoryview(png)
    chunks = [view[start:end] for kind, start, end in _png_chunks(png) if kind in _PNG_PIXEL_CHUNKS - {b"IDAT"}]
    return b"".join([view[:_PNG_SIGNATURE_BYTES], *chunks])


def read_png_exif(png: bytes) -> list[bytes]:
    """The EXIF blocks of a PNG that is known to be whole, in their order."""
    return [png[start + 8 : end - 4] for kind, start, end in _png_chunks(png) if kind == b"eXIf"]


def _png_chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    position = _PNG_SIGNATURE_BYTES
    kind = b""
    while kind != b"IEND":
        if position + 12 > len(png):
            raise ImageError(ImageErrorCode.TRUNCATED, "the PNG ends before its IEND chunk")
        length, kind = struct.unpack_from(">I4s", png, position)
        end = position + 12 + length
        if end > len(png):
            raise ImageError(ImageErrorCode.TRUNCATED, "the PNG ends inside a chunk")
        yield kind, position, end
        position = end


def check_riff_complete(riff: bytes) -> None:
    """Raise ``truncated`` where a RIFF file (WebP) is shorter than it says."""
    declared = 8 + int.from_bytes(riff[4:8], "little")
    if declared > len(riff):
        raise ImageError(ImageErrorCode.TRUNCATED, f"{len(riff)} of {declared} bytes")


def check_bmff_complete(bmff: bytes, name: str) -> None:
    """Raise ``truncated`` where an ISO media file (AVIF, HEIF) ends inside one of its boxes or before its index."""
    position = 0
    kinds = set()
    while position < len(bmff):
        if position + 8 > len(bmff):
            raise ImageError(ImageErrorCode.TRUNCATED, f"the {name} ends inside the header of a box")
        size, kind = struct.unpack_from(">I4s", bmff, position)
        kinds.add(kind)
        if size == 0:  # it reaches to the end of the file
            break
        if size == 1:  # the real size follows
            size = int.from_bytes(bmff[position + 8 : position + 16], "big")
        if size < 8:  # it would never advance: damage, and for the decoder to say what kind
            return
        position += size
    if position > len(bmff):
        raise ImageError(ImageErrorCode.TRUNCATED, f"the {name} has {len(bmff)} of at least {position} bytes")
    if kinds.isdisjoint(_BMFF_INDEX_BOXES):
        raise ImageError(ImageErrorCode.TRUNCATED, f"the {name} ends before its index")
