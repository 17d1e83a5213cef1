"""Find out from the outside whether a file is whole, before a decoder guesses what its missing part looked like."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.errors import ImageError, ImageErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterator

_PNG_SIGNATURE_BYTES = 8
# The chunks that make pixels. The rest is dropped unread: text that inflates to gigabytes, colour profiles, animation.
_PNG_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"})
_BMFF_INDEX_BOXES = frozenset({b"meta", b"moov"})
# Bits per sample, compression, photometric, colour map, JPEG tables, and where the pixels are.
_TIFF_PIXEL_TAGS = frozenset({258, 259, 262, 273, 279, 320, 324, 325, 347})
_TIFF_DATA_TAGS = ((273, 279), (324, 325))  # offsets and byte counts, of strips and of tiles
_TIFF_DTYPES = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 16: "u8"}


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


def check_bmff_complete(bmff: bytes) -> None:
    """Raise ``truncated`` where an ISO media file (AVIF) ends inside one of its boxes or before its index."""
    position = 0
    kinds = set()
    while position < len(bmff):
        if position + 8 > len(bmff):
            raise ImageError(ImageErrorCode.TRUNCATED, "the AVIF ends inside the header of a box")
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
        raise ImageError(ImageErrorCode.TRUNCATED, f"the AVIF has {len(bmff)} of at least {position} bytes")
    if kinds.isdisjoint(_BMFF_INDEX_BOXES):
        raise ImageError(ImageErrorCode.TRUNCATED, "the AVIF ends before its index")


def is_tiff_complete(tiff: bytes) -> bool:
    """Whether the first page's directory, and the strips or tiles that it lists, lie within the file.

    For telling why decoding failed, not for refusing: byte counts that reach too far are common and often harmless.
    """
    try:
        tags = _read_tiff_pixel_tags(tiff)
    except (struct.error, ValueError, OverflowError):
        return False
    for offsets_tag, counts_tag in _TIFF_DATA_TAGS:
        # Floats, because hostile integers of 64 bits would wrap around to a sum within the file.
        pairs = zip(tags.get(offsets_tag, ()), tags.get(counts_tag, ()), strict=False)
        if any(float(offset) + float(count) > len(tiff) for offset, count in pairs):
            return False
    return True


def _read_tiff_pixel_tags(tiff: bytes) -> dict[int, np.ndarray]:
    """Read the tags that decoding depends on; raises what struct and numpy do where they lie beyond the end."""
    order = "<" if tiff[:2] == b"II" else ">"
    is_big = 43 in tiff[2:4]
    word, num_entries_format, first_ifd = ("Q", "Q", 8) if is_big else ("I", "H", 4)
    entry = struct.Struct(f"{order}HH{word}{word}")
    word_bytes = struct.calcsize(word)

    (ifd,) = struct.unpack_from(order + word, tiff, first_ifd)
    (num_entries,) = struct.unpack_from(order + num_entries_format, tiff, ifd)
    start = ifd + struct.calcsize(num_entries_format)
    tags = {}
    for position in range(start, start + num_entries * entry.size, entry.size):
        tag, kind, count, value = entry.unpack_from(tiff, position)
        if tag in _TIFF_PIXEL_TAGS and kind in _TIFF_DTYPES:
            dtype = np.dtype(order + _TIFF_DTYPES[kind])
            # Values that fit into the entry lie in its last word; of others it holds the offset.
            is_inline = count * dtype.itemsize <= word_bytes
            tags[tag] = np.frombuffer(tiff, dtype, count, position + entry.size - word_bytes if is_inline else value)
    return tags
