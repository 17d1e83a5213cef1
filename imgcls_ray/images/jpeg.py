"""Read a JPEG's header without decoding it.

Reading the header takes tens of microseconds. It decides three things before decoding: whether the file is within the
limits, whether the fast decoder supports it, and its orientation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.orientation import EXIF_PREFIX, UPRIGHT, find_orientation

if TYPE_CHECKING:
    from imgcls_ray.images.limits import DecodeLimits

_SOF_BASELINE, _SOF_EXTENDED, _SOF_PROGRESSIVE = 0xC0, 0xC1, 0xC2
_SOF_LOSSLESS, _SOF_ARITHMETIC, _SOF_PROGRESSIVE_ARITHMETIC = 0xC3, 0xC9, 0xCA
_DHT, _JPG, _DAC, _EOI, _SOS, _APP1 = 0xC4, 0xC8, 0xCC, 0xD9, 0xDA, 0xE1
_SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {_DHT, _JPG, _DAC}
_FAST_SOFS = frozenset({_SOF_BASELINE, _SOF_EXTENDED, _SOF_PROGRESSIVE})
# What libjpeg-turbo 3 decodes; the rest of the standard is hierarchical or lossless arithmetic, which nothing writes.
_READABLE_SOFS = _FAST_SOFS | {_SOF_LOSSLESS, _SOF_ARITHMETIC, _SOF_PROGRESSIVE_ARITHMETIC}
LOSSLESS_SOFS = frozenset({_SOF_LOSSLESS})
"""Frame markers of JPEGs whose pixels are not stored as coefficients."""
_PROGRESSIVE_SOFS = frozenset({_SOF_PROGRESSIVE, _SOF_PROGRESSIVE_ARITHMETIC})

# The next marker that has a segment, or EOI. Skipped in C rather than in a loop here, because each can fill a file:
# stuffed zeros and restart markers (inside scans), fill bytes, and junk between segments.
_NEXT_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
# Of one search: in C it keeps the interpreter, and a file of 30 MB would stop everything else for a fifth of a second.
_SEARCH_BYTES = 1 << 20
# Real files have tens of segments; 100 MiB of the smallest one would cost half a minute.
_MAX_SEGMENTS = 10_000
# How many EXIF blocks are asked for an orientation. Editors leave two or three.
_MAX_EXIFS = 8
# What the pixels need beside the frame: tables, the restart interval, and which colours there are (JFIF, Adobe).
_PIXEL_SEGMENTS = frozenset({_DHT, _DAC, 0xDB, 0xDD, 0xE0, 0xEE})
# They are some kilobytes with a thumbnail in the JFIF segment.
_MAX_TABLE_BYTES = 1 << 18


class JpegHeader(NamedTuple):
    """Values from the segments before the first scan."""

    sof: int
    """Frame marker, 0xC0 to 0xCF, which names the coding process."""
    precision: int
    """Bits per sample."""
    width: int
    """Width of the stored picture in pixels, before it is turned upright."""
    height: int
    num_components: int
    orientation: int
    """EXIF orientation, 1 to 8."""
    scan: int | None
    """Offset of the first scan's segment; None where the file ends before it."""
    num_scan_components: int
    """Components in the first scan."""

    @property
    def is_fast(self) -> bool:
        """Whether the fast decoder supports it: 8-bit, Huffman-coded, grey or three colours."""
        return self.sof in _FAST_SOFS and self.precision == 8 and self.num_components in (1, 3)

    @property
    def has_many_scans(self) -> bool:
        """Whether a decoder reads on after the first scan."""
        return self.sof in _PROGRESSIVE_SOFS or self.num_scan_components < self.num_components


def read_jpeg_header(data: bytes, *, max_segments: int = _MAX_SEGMENTS, max_junk: int | None = None) -> JpegHeader:
    """Parse the segments up to the first scan.

    Args:
        max_segments: how many there may be.
        max_junk: bytes between two segments; None for any number.

    Raises:
        ImageError: ``truncated`` where the file ends before its frame header, ``corrupt`` where there is none.
    """
    frame: tuple[int, int, int, int, int] | None = None
    orientation: int | None = None
    position = 2
    num_exifs = 0
    for _ in range(max_segments):
        found = _next_marker(data, position, None if max_junk is None else position + max_junk)
        segment = found.end() if found else len(data)
        position = segment + _segment_bytes(data, segment)
        if position > len(data) or segment + 2 > len(data):
            if frame is None:
                raise ImageError(ImageErrorCode.TRUNCATED, "the file ends inside its header")
            return JpegHeader(*frame, orientation or UPRIGHT, scan=None, num_scan_components=0)
        marker = data[segment - 1]
        if marker == _EOI or position < segment + 2:
            raise ImageError(ImageErrorCode.CORRUPT, f"JPEG marker {marker:#x} makes no sense in the header")
        if marker == _SOS:
            if frame is None:
                raise ImageError(ImageErrorCode.CORRUPT, "a JPEG scan comes before the frame header")
            num_scan_components = data[segment + 2] if position > segment + 2 else 0
            return JpegHeader(*frame, orientation or UPRIGHT, segment, num_scan_components)
        if marker in _SOF_MARKERS and frame is None:
            frame = _read_frame(marker, data[segment + 2 : position])
        # XMP is in such segments too. The first block that gives an orientation counts, also where it says upright.
        elif (
            marker == _APP1
            and orientation is None
            and num_exifs < _MAX_EXIFS
            and data.startswith(EXIF_PREFIX, segment + 2)
        ):
            num_exifs += 1
            orientation = find_orientation(data[segment + 2 : position])
    raise ImageError(ImageErrorCode.CORRUPT, f"more than {max_segments} segments in the JPEG header")


def keep_pixel_segments(data: bytes, header: JpegHeader) -> bytes:
    """The file without unneeded segments before its first scan, and without junk between them.

    Pillow reads each segment separately, and junk byte by byte, in Python.

    Raises:
        ImageError: ``corrupt`` for more tables than any file has.
    """
    view = memoryview(data)
    kept = [view[:2]]
    num_bytes = 0
    position = 2
    while position < (header.scan or 0):
        found = _next_marker(data, position)
        if found is None:
            break
        segment = found.end()
        position = segment + _segment_bytes(data, segment)
        if segment == header.scan:
            break
        marker = data[segment - 1]
        if marker in _SOF_MARKERS or marker in _PIXEL_SEGMENTS:
            kept.append(view[segment - 2 : position])
            num_bytes += position - segment + 2
            if num_bytes > _MAX_TABLE_BYTES:
                raise ImageError(ImageErrorCode.CORRUPT, f"more than {_MAX_TABLE_BYTES} bytes of JPEG tables")
    return b"".join([*kept, view[(header.scan or 0) - 2 :]])


def _next_marker(data: bytes, position: int, stop: int | None = None) -> re.Match[bytes] | None:
    stop = len(data) if stop is None else min(stop, len(data))
    while position < stop:
        # One byte more than the step: a marker may begin with its last one.
        found = _NEXT_MARKER.search(data, position, min(position + _SEARCH_BYTES + 1, stop))
        if found is not None:
            return found
        position += _SEARCH_BYTES
    return None


def _segment_bytes(data: bytes, segment: int) -> int:
    """Length of a segment, its own two bytes included."""
    return data[segment] << 8 | data[segment + 1] if segment + 2 <= len(data) else 0


def _read_frame(marker: int, frame: bytes) -> tuple[int, int, int, int, int]:
    if len(frame) < 6:
        raise ImageError(ImageErrorCode.CORRUPT, "its JPEG frame header is too short")
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    return marker, frame[0], width, height, frame[5]


def check_jpeg(data: bytes, header: JpegHeader, limits: DecodeLimits) -> None:
    """Refuse a JPEG that no decoder here supports, or that would cost too much.

    Raises:
        ImageError: ``unsupported_format``, ``corrupt`` (no area), ``too_many_pixels``, ``truncated`` (no scan) or
            ``too_many_scans``.
    """
    if header.sof not in _READABLE_SOFS or header.precision != 8 or header.num_components not in (1, 3, 4):
        raise ImageError(
            ImageErrorCode.UNSUPPORTED_FORMAT,
            f"a JPEG of {header.precision} bits, {header.num_components} components, process SOF{header.sof - 0xC0}",
        )
    limits.check_size(header.width, header.height)
    if header.scan is None:
        raise ImageError(ImageErrorCode.TRUNCATED, "the file ends before its first scan")
    # One scan of all components is read once, whatever follows it: libjpeg then expects the end.
    if header.has_many_scans:
        _check_scans(data, header.scan, limits.max_scans)


def _check_scans(data: bytes, scan: int, max_scans: int) -> None:
    num_scans = 1
    position = scan + _segment_bytes(data, scan)
    for _ in range(_MAX_SEGMENTS):
        found = _next_marker(data, position)
        if found is None or data[found.end() - 1] == _EOI:
            return
        segment = found.end()
        if data[segment - 1] == _SOS:
            num_scans += 1
            if num_scans > max_scans:
                raise ImageError(ImageErrorCode.TOO_MANY_SCANS, f"more than {max_scans}")
        position = segment + max(2, _segment_bytes(data, segment))
    raise ImageError(ImageErrorCode.CORRUPT, f"more than {_MAX_SEGMENTS} segments between the JPEG scans")


def has_end_of_image(data: bytes, scan: int) -> bool:
    """Whether an end-of-image marker follows the scan that starts at this offset."""
    return data.rfind(b"\xff\xd9", scan) != -1
