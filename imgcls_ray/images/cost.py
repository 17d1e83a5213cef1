"""Estimate the cost of decoding an image from a few numbers in its header.

A server decodes files of strangers. Pictures that are within the limits but take seconds must not delay pictures that
take milliseconds, and a picture that could block a process is decoded in another process. The estimate itself takes a
millisecond, without a decoder. For a large JPEG, whose scans are counted, it takes one millisecond per megabyte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.images.bmff import read_bmff_size
from imgcls_ray.images.bmp import read_bmp_size
from imgcls_ray.images.containers import has_few_png_chunks, is_still_webp, read_png_size, read_webp_size
from imgcls_ray.images.gif import read_gif_size
from imgcls_ray.images.jpeg import JpegHeader, read_jpeg_header
from imgcls_ray.images.jxl import read_jxl_size
from imgcls_ray.images.sniff import ImageFormat, sniff_format
from imgcls_ray.images.tiff import read_coded_size

if TYPE_CHECKING:
    from collections.abc import Callable

HEAVY_COST = 24_000_000
"""From this cost on, decoding takes a quarter of a second or more. Such pictures use a separate queue."""

# Beside a JPEG's pixel: the younger formats' take several times as long.
_COST_OF_FORMAT = {
    ImageFormat.AVIF: 4,
    ImageFormat.HEIF: 4,
    ImageFormat.JXL: 4,
    ImageFormat.WEBP: 3,
    ImageFormat.PNG: 2,
    ImageFormat.TIFF: 2,
}
_READ_SIZE: dict[ImageFormat, Callable[[bytes], tuple[int, int]]] = {
    ImageFormat.PNG: read_png_size,
    ImageFormat.WEBP: read_webp_size,
    ImageFormat.AVIF: read_bmff_size,
    ImageFormat.HEIF: read_bmff_size,
    ImageFormat.GIF: read_gif_size,
    ImageFormat.BMP: read_bmp_size,
    ImageFormat.TIFF: read_coded_size,
    ImageFormat.JXL: read_jxl_size,
}
# Of these formats, the files that can be ordinary; of JPEGs, those of the fast decoder.
_IS_SIMPLE: dict[ImageFormat, Callable[[bytes], bool]] = {
    ImageFormat.PNG: has_few_png_chunks,
    ImageFormat.WEBP: is_still_webp,
}
# Encoders write about ten scans, each a pass over the coefficients that costs about a third of decoding them once.
_SCANS_OF_COST_1 = 3
# Scans are counted in steps: one call of C code for a whole file would keep the interpreter from everybody else.
_STEP_BYTES = 1 << 20
# Few files hold more than their pixels need: a profile, a thumbnail, a depth map.
_ORDINARY_BYTES, _ORDINARY_BYTES_PER_PIXEL = 1 << 22, 8
# In a JPEG's header. One of an ordinary file has tens, of 64 kB each where it holds a profile or a depth map.
_MAX_SEGMENTS, _MAX_JUNK_BYTES = 500, 1 << 14


class DecodeCost(NamedTuple):
    """What decoding an image costs."""

    pixels: float
    """In pixels of an ordinary JPEG (about 10 ns each); 0 if its header cannot be read, or for any other file."""
    is_ordinary: bool
    """Whether it can be decoded in a thread without delaying others: a still JPEG, PNG or WebP of ordinary cost.

    All other images, also those whose header cannot be read, are decoded in a separate process. A file that no decoder
    accepts counts as ordinary, because it is refused at once.
    """

    @property
    def is_heavy(self) -> bool:
        return self.pixels > HEAVY_COST


def decode_cost(data: bytes) -> DecodeCost:
    """Estimate the cost of decoding. Never raises: the decoder reports what is wrong with an image."""
    image_format = sniff_format(data)
    if image_format is None:
        return DecodeCost(0, is_ordinary=True)
    try:
        if image_format is ImageFormat.JPEG:
            header = read_jpeg_header(data, max_segments=_MAX_SEGMENTS, max_junk=_MAX_JUNK_BYTES)
            pixels, is_simple = _jpeg_cost(data, header), header.is_fast and header.scan is not None
        else:
            width, height = _READ_SIZE[image_format](data)
            pixels = width * height * _COST_OF_FORMAT.get(image_format, 1)
            is_simple = image_format in _IS_SIMPLE and _IS_SIMPLE[image_format](data)
    except Exception:
        return DecodeCost(0, is_ordinary=False)
    has_few_bytes = len(data) <= _ORDINARY_BYTES + _ORDINARY_BYTES_PER_PIXEL * pixels
    return DecodeCost(pixels, is_ordinary=is_simple and 0 < pixels <= HEAVY_COST and has_few_bytes)


def _jpeg_cost(data: bytes, header: JpegHeader) -> float:
    num_scans = 1
    if header.has_many_scans:
        # One byte more than the step: a marker may begin with its last one.
        num_scans = sum(
            data.count(b"\xff\xda", start, start + _STEP_BYTES + 1) for start in range(0, len(data), _STEP_BYTES)
        )
    return header.width * header.height * max(1.0, num_scans / _SCANS_OF_COST_1)
