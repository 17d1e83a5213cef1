"""Guess what decoding an image will cost, from its header alone.

A server decodes what strangers send. Pictures that are within the limits and still take seconds must not stand before
those that take milliseconds.
"""

from __future__ import annotations

from imgcls_ray.errors import ImageError
from imgcls_ray.images.careful import read_size
from imgcls_ray.images.jpeg import read_jpeg_header
from imgcls_ray.images.sniff import ImageFormat, sniff_format

HEAVY_COST = 24_000_000
"""From here on decoding takes a quarter of a second or more: such pictures wait in a line of their own."""

# Beside a JPEG's pixel: the younger formats' take several times as long.
_COST_OF_FORMAT = {
    ImageFormat.AVIF: 4,
    ImageFormat.HEIF: 4,
    ImageFormat.JXL: 4,
    ImageFormat.WEBP: 3,
    ImageFormat.PNG: 2,
    ImageFormat.TIFF: 2,
}
_ORDINARY_FORMATS = frozenset({ImageFormat.JPEG, ImageFormat.PNG, ImageFormat.WEBP})
# Encoders write about ten scans, each a pass over the coefficients that costs about a third of decoding them once.
_SCANS_OF_COST_1 = 3


def decode_cost(data: bytes) -> float:
    """What decoding will cost, in pixels of an ordinary JPEG (some 10 ns each); 0 for what no decoder will take.

    Never raises: whatever is wrong with an image is for the decoder to say.
    """
    try:
        image_format = sniff_format(data)
        if image_format is None:
            return 0
        if image_format is ImageFormat.JPEG:
            header = read_jpeg_header(data)
            num_scans = data.count(b"\xff\xda") if header.has_many_scans else 1
            return header.width * header.height * max(1.0, num_scans / _SCANS_OF_COST_1)
        width, height = read_size(data, image_format)
        return width * height * _COST_OF_FORMAT.get(image_format, 1)
    except Exception:
        return 0


def is_ordinary(data: bytes) -> bool:
    """Whether decoding it in a thread beside others holds up nobody: a still JPEG, PNG or WebP of ordinary cost.

    Everything else, also what looks like an image and cannot be read, belongs into a process of its own. What no
    decoder will take counts as ordinary: it is refused at once.
    """
    image_format = sniff_format(data)
    if image_format is None:
        return True
    if image_format not in _ORDINARY_FORMATS:
        return False
    if image_format is ImageFormat.JPEG:
        try:
            if not read_jpeg_header(data).is_fast:
                return False
        except ImageError:
            return False
    return 0 < decode_cost(data) <= HEAVY_COST
