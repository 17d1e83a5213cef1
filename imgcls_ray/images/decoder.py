"""Decode encoded images into upright 8-bit RGB.

The code after this module does not need to handle formats, EXIF, palettes, alpha or bit depths. The only exception is
``ImageError``: hostile or broken bytes affect one image only. Colour profiles are ignored, as the networks were
trained on pixels read that way. Everything here is safe to call from several threads.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from PIL import AvifImagePlugin

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.careful import decode_with_pillow, read_pillow_image
from imgcls_ray.images.crops import Crop, cut
from imgcls_ray.images.fast_jpeg import choose_scale, decode_jpeg_fast
from imgcls_ray.images.jpeg import check_jpeg, read_jpeg_header
from imgcls_ray.images.limits import DEFAULT_LIMITS, DecodeLimits
from imgcls_ray.images.sniff import ImageFormat, sniff_format

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from imgcls_ray.images.jpeg import JpegHeader

__all__ = [
    "DEFAULT_LIMITS",
    "DecodeLimits",
    "DecodedImage",
    "decode_careful",
    "decode_image",
    "decode_picture",
    "decode_scaled",
    "decode_with_header",
    "load_optional_decoders",
]


class DecodedImage(NamedTuple):
    """A picture, perhaps at a fraction of its size."""

    pixels: np.ndarray
    """Upright RGB, uint8 (height / scale, width / scale, 3), C-contiguous and writable."""
    scale: int = 1
    """1, 2, 4 or 8."""

    @property
    def width(self) -> int:
        """Of the upright picture in the file, pixels."""
        return int(self.pixels.shape[1]) * self.scale

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0]) * self.scale


def decode_image(data: bytes | memoryview | Crop, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Decode one image, or a box of it, with the fast decoder if it supports the file.

    Alpha is composited on white, 16-bit grey is scaled by its real depth, an animation gives its first frame.

    Returns:
        Upright RGB, uint8 (H, W, 3), C-contiguous and writable.

    Raises:
        ImageError: ``empty``, ``too_many_bytes``, ``unsupported_format``, ``too_many_pixels``, ``too_many_scans``,
            ``truncated``, ``corrupt``, ``bad_box`` or ``decoder_crashed`` (out of memory).
    """
    return decode_scaled(data, limits, min_side=None).pixels


def decode_scaled(
    data: bytes | memoryview | Crop, limits: DecodeLimits = DEFAULT_LIMITS, *, min_side: int | None
) -> DecodedImage:
    """Decode one image as ``decode_image`` does, a JPEG at the smallest of the scales of ``choose_scale``.

    Limits hold for the size in the file. The picture of a box is decoded whole, because other boxes may be small, and
    the size is that of the box.

    Args:
        min_side: pixels that the short side keeps at least; None decodes every picture whole.

    Raises:
        ImageError: as ``decode_image``.
    """
    if isinstance(data, Crop):
        picture = data.picture.decoded(lambda whole: _decode(whole, limits, min_side=None)[0].pixels)
        return DecodedImage(cut(picture, data.box))
    return _decode(data, limits, min_side)[0]


def decode_with_header(
    data: bytes | memoryview, limits: DecodeLimits = DEFAULT_LIMITS
) -> tuple[np.ndarray, JpegHeader | None]:
    """Decode one image as ``decode_image`` does, and also return the header of a JPEG."""
    decoded, header = _decode(data, limits, min_side=None)
    return decoded.pixels, header


def _decode(
    data: bytes | memoryview, limits: DecodeLimits, min_side: int | None
) -> tuple[DecodedImage, JpegHeader | None]:
    data, image_format = _check_bytes(data, limits)
    if image_format is not ImageFormat.JPEG:
        return DecodedImage(decode_with_pillow(data, image_format, limits)), None
    header = read_jpeg_header(data)
    check_jpeg(data, header, limits)
    scale = choose_scale(header, min_side)
    if header.is_fast:
        # Whatever stops it, the careful decoder gets the file next and decides what is wrong with it.
        with suppress(Exception):
            return DecodedImage(decode_jpeg_fast(data, header, scale), scale), header
    return DecodedImage(decode_with_pillow(data, image_format, limits, scale), scale), header


def decode_careful(
    data: bytes | memoryview, limits: DecodeLimits = DEFAULT_LIMITS, *, min_side: int | None = None
) -> np.ndarray:
    """Decode one image with Pillow whatever its format; promises and errors as ``decode_scaled``."""
    data, image_format = _check_bytes(data, limits)
    scale = choose_scale(read_jpeg_header(data), min_side) if image_format is ImageFormat.JPEG else 1
    return decode_with_pillow(data, image_format, limits, scale)


def decode_picture(picture: Image.Image, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Convert a caller's Pillow image to the form of ``decode_image``, by the same rules."""
    return read_pillow_image(picture, limits)


def load_optional_decoders() -> None:
    """Load the decoders of the extras, where they are installed, and let each decoder use one thread.

    For a process with one core: its memory limit does not include memory for more threads.
    """
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.options.DECODE_THREADS = 1
    with suppress(ImportError):
        import imagecodecs  # noqa: F401


def _check_bytes(data: bytes | memoryview, limits: DecodeLimits) -> tuple[bytes, ImageFormat]:
    limits.check_bytes(data.nbytes if isinstance(data, memoryview) else len(data))
    data = bytes(data)  # only a view is copied
    image_format = sniff_format(data)
    if image_format is None:
        raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"it begins with {data[:8].hex(' ')}")
    return data, image_format
