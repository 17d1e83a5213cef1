"""JPEG XL: read a file's header, and decode it with libjxl through imagecodecs, the extra ``jxl``.

The header (a few hundred bits, ISO/IEC 18181-1, annex D) is read here, because no Python library returns the size of a
picture without decoding it, and limits must be checked before decoding.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.boxes import iter_file_boxes
from imgcls_ray.images.pixels import row_blocks, scale_to_8_bits
from imgcls_ray.images.sniff import JXL_CODESTREAM_MAGIC as CODESTREAM_MAGIC
from imgcls_ray.images.sniff import JXL_CONTAINER_MAGIC as CONTAINER_MAGIC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.images.boxes import Box
    from imgcls_ray.images.limits import DecodeLimits

# A header is shorter than this, but for the names of its channels, which nobody writes.
_MAX_HEADER_BYTES = 1 << 14
# Within so many boxes its header has begun and ended: only metadata may stand before.
_BOXES_BEFORE_CODESTREAM = 500
# Width by height, where a header gives the one and a ratio.
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_ALPHA, _SPOT_COLOUR, _CFA = 0, 2, 5
_GREY = 1
_MAX_BITS = 16

# The four ways in which a number is written: (bits, offset) each.
_Choices = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]
_SIDE: _Choices = ((9, 1), (13, 1), (18, 1), (30, 1))
_PREVIEW_SIDE: _Choices = ((6, 1), (8, 65), (10, 321), (12, 1345))
_PREVIEW_SIDE_DIV8: _Choices = ((0, 16), (0, 32), (5, 1), (9, 33))
_ENUM: _Choices = ((0, 0), (0, 1), (4, 2), (6, 18))


class JxlHeader(NamedTuple):
    """Values from the header of a JPEG XL file."""

    width: int
    """Width of the stored picture in pixels."""
    height: int
    orientation: int
    """Orientation of the codestream, 1 to 8 as in EXIF. The decoder applies it; EXIF in the file is ignored."""
    bits: int
    """Bits per sample."""
    is_float: bool
    is_grey: bool
    num_alphas: int
    is_premultiplied: bool
    has_unknown_channels: bool
    """Whether there are other channels than colours and alpha: black ink, spot colours, sensors."""


def read_jxl_header(data: bytes) -> JxlHeader:
    """Read the header of a codestream, bare or in its container.

    Raises:
        ImageError: ``truncated`` where the file ends before or in it, or within a box of the container; ``corrupt``
            where there is none.
    """
    bits = _open_codestream(data)
    width, height = _read_size(bits)
    if bits.flag():  # all as in most files
        return JxlHeader(width, height, 1, 8, False, False, 0, False, False)
    orientation = 1
    if bits.flag():
        orientation = bits.read(3) + 1
        if bits.flag():
            _read_size(bits)  # that of the screen it was made for
        if bits.flag():
            _skip_preview(bits)
        if bits.flag():
            _skip_animation(bits)
    depth, is_float = _read_depth(bits)
    bits.flag()  # whether 16 bits are enough for the decoder's buffers
    alphas, has_unknown_channels = [], False
    for _ in range(bits.choose(((0, 0), (0, 1), (4, 2), (12, 1)))):
        kind, is_premultiplied = _read_extra_channel(bits)
        if kind == _ALPHA:
            alphas.append(is_premultiplied)
        else:
            has_unknown_channels = True
    bits.flag()  # whether the colours are those of the lossy way
    is_grey = False
    if not bits.flag():  # another colour space than sRGB
        bits.flag()  # whether a profile follows
        is_grey = bits.choose(_ENUM) == _GREY
    return JxlHeader(
        width, height, orientation, depth, is_float, is_grey, len(alphas), any(alphas), has_unknown_channels
    )


def read_jxl_size(data: bytes) -> tuple[int, int]:
    """Width and height alone; raises as ``read_jxl_header``."""
    return _read_size(_open_codestream(data))


def _open_codestream(data: bytes) -> _Bits:
    codestream = _first_bytes(data) if data.startswith(CONTAINER_MAGIC) else data[:_MAX_HEADER_BYTES]
    if not codestream:
        raise ImageError(ImageErrorCode.TRUNCATED, "the JPEG XL ends before its codestream")
    if not codestream.startswith(CODESTREAM_MAGIC):
        raise ImageError(ImageErrorCode.CORRUPT, "the JPEG XL holds no codestream")
    return _Bits(codestream[len(CODESTREAM_MAGIC) :])


def decode_jxl(data: bytes, limits: DecodeLimits) -> np.ndarray:
    """Decode the first picture of a JPEG XL file.

    Returns:
        Upright RGB, uint8 (H, W, 3), C-contiguous and writable.

    Raises:
        ImageError: What the header says, or that the extra is not installed.
        Exception: Whatever libjxl did not like.
    """
    try:
        import imagecodecs
    except ImportError as exc:
        raise ImageError(
            ImageErrorCode.UNSUPPORTED_FORMAT, "JPEG XL needs an extra: pip install 'imgcls-ray[jxl]'"
        ) from exc
    _check_complete(data)
    header = read_jxl_header(data)
    limits.check_size(header.width, header.height)
    if header.is_float or header.bits > _MAX_BITS or header.has_unknown_channels or header.num_alphas > 1:
        raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"a JPEG XL of {_describe(header)}")
    # The workers and the service use their cores by themselves.
    samples = imagecodecs.jpegxl_decode(data, index=0, numthreads=1)
    if samples.shape[:2] not in ((header.height, header.width), (header.width, header.height)):
        raise ImageError(ImageErrorCode.CORRUPT, f"the JPEG XL decodes to {samples.shape}, unlike its header")
    return _to_rgb(samples, header)


def _to_rgb(samples: np.ndarray, header: JxlHeader) -> np.ndarray:
    samples = samples.reshape(*samples.shape[:2], -1)
    pixels = samples if header.bits == 8 else scale_to_8_bits(samples, (1 << header.bits) - 1)
    if header.num_alphas:
        pixels = _composite_on_white(pixels, is_premultiplied=header.is_premultiplied)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.require(pixels, requirements=["C", "W"])


def _composite_on_white(pixels: np.ndarray, *, is_premultiplied: bool) -> np.ndarray:
    composite = np.empty((*pixels.shape[:2], pixels.shape[2] - 1), np.uint8)
    for rows in row_blocks(pixels):
        colours, alpha = pixels[rows, :, :-1].astype(np.uint32), pixels[rows, :, -1:].astype(np.uint32)
        weighted = colours * (255 if is_premultiplied else alpha)
        composite[rows] = np.minimum((weighted + 255 * (255 - alpha) + 127) // 255, 255)
    return composite


def _describe(header: JxlHeader) -> str:
    if header.is_float or header.bits > _MAX_BITS:
        return f"{header.bits}-bit {'floats' if header.is_float else 'integers'}"
    return "more than one alpha channel" if header.num_alphas > 1 else "ink, spot colour or sensor channels"


def _check_complete(data: bytes) -> None:
    """Raise ``truncated`` where a JPEG XL container ends inside one of its boxes."""
    if data.startswith(CONTAINER_MAGIC):
        for _ in _boxes(data):
            pass


def _first_bytes(data: bytes) -> bytes:
    """The codestream's beginning: in one box, or in several that follow each other."""
    parts = []
    num_bytes = 0
    for kind, start, end in islice(_boxes(data), _BOXES_BEFORE_CODESTREAM):
        if kind in (b"jxlc", b"jxlp"):
            # The parts of a codestream are numbered.
            part = data[start + 4 * (kind == b"jxlp") : min(end, start + _MAX_HEADER_BYTES)]
            parts.append(part)
            num_bytes += len(part)
            if num_bytes >= _MAX_HEADER_BYTES:
                break
    return b"".join(parts)


def _boxes(data: bytes) -> Iterator[Box]:
    for box in iter_file_boxes(data, "JPEG XL"):
        if box.end < box.start:
            raise ImageError(ImageErrorCode.CORRUPT, "a box of the JPEG XL is smaller than its header")
        yield box


class _Bits:
    """Read numbers from a codestream, the lowest bit of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data[:_MAX_HEADER_BYTES], "little")
        self._num_bits = 8 * len(data)
        self._position = 0

    def read(self, num_bits: int) -> int:
        if self._position + num_bits > self._num_bits:
            raise ImageError(ImageErrorCode.TRUNCATED, "the JPEG XL ends inside its header")
        value = (self._value >> self._position) & ((1 << num_bits) - 1)
        self._position += num_bits
        return value

    def flag(self) -> bool:
        return bool(self.read(1))

    def choose(self, choices: _Choices) -> int:
        num_bits, offset = choices[self.read(2)]
        return self.read(num_bits) + offset


def _read_size(bits: _Bits) -> tuple[int, int]:
    is_div8 = bits.flag()
    height = 8 * (bits.read(5) + 1) if is_div8 else bits.choose(_SIDE)
    ratio = bits.read(3)
    if ratio:
        numerator, denominator = _RATIOS[ratio - 1]
        return height * numerator // denominator, height
    return 8 * (bits.read(5) + 1) if is_div8 else bits.choose(_SIDE), height


def _skip_preview(bits: _Bits) -> None:
    side = _PREVIEW_SIDE_DIV8 if bits.flag() else _PREVIEW_SIDE
    bits.choose(side)
    if not bits.read(3):
        bits.choose(side)


def _skip_animation(bits: _Bits) -> None:
    bits.choose(((0, 100), (0, 1000), (10, 1), (30, 1)))  # ticks per second
    bits.choose(((0, 1), (0, 1001), (8, 1), (10, 1)))
    bits.choose(((0, 0), (3, 0), (16, 0), (32, 0)))  # loops
    bits.flag()


def _read_depth(bits: _Bits) -> tuple[int, bool]:
    if bits.flag():
        depth = bits.choose(((0, 32), (0, 16), (0, 24), (6, 1)))
        bits.read(4)  # of which exponent
        return depth, True
    return bits.choose(((0, 8), (0, 10), (0, 12), (6, 1))), False


def _read_extra_channel(bits: _Bits) -> tuple[int, bool]:
    """Its kind, and whether it is an alpha that the colours are multiplied by."""
    if bits.flag():
        return _ALPHA, False
    kind = bits.choose(_ENUM)
    _read_depth(bits)
    bits.choose(((0, 0), (0, 3), (0, 4), (3, 1)))  # how much smaller it is than the picture
    bits.read(8 * bits.choose(((0, 0), (4, 0), (5, 16), (10, 48))))  # its name
    if kind == _ALPHA:
        return kind, bits.flag()
    if kind == _SPOT_COLOUR:
        bits.read(4 * 16)
    elif kind == _CFA:
        bits.choose(((0, 1), (2, 0), (4, 3), (8, 19)))
    return kind, False
