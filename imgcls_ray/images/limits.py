"""Limits of one image, checked before any of its pixels are decoded."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from imgcls_ray.defaults import DECODE_TIMEOUT_S, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from imgcls_ray.errors import ConfigError, ImageError, ImageErrorCode

PEAK_BYTES_PER_PIXEL = 24
"""Largest memory of decoding in bytes per pixel of the picture, without a few copies of the encoded file.

Measured: JPEG 3 to 12, PNG 8, TIFF 13, WebP 16, AVIF 17, and the worst of all, a HEIF of 10 bits with alpha, 21.
"""

# A file may come in so many pieces, and in one more for so many pixels: chunks, strips and tiles cost time each,
# however few pixels and bytes they hold. Real files are far below: the smallest tiles have 256 pixels, and a PNG has a
# chunk for 8 kB or, at the worst, for each row.
_PIECES_OF_ANY_PICTURE, _PIXELS_PER_PIECE = 10_000, 128


@dataclass(frozen=True)
class DecodeLimits:
    """Largest values that a file may declare; a file with larger ones is not decoded.

    Raises:
        ConfigError: A limit is not positive, or ``max_pixels`` is above the size at which Pillow itself objects.
    """

    max_bytes: int = MAX_IMAGE_BYTES
    """Largest encoded size in bytes."""
    max_pixels: int = MAX_IMAGE_PIXELS
    """Largest number of pixels, width times height in the header. The default is Pillow's own limit: 256 MiB as RGB."""
    max_scans: int = 100
    """Largest number of scans of a JPEG. Encoders write about ten; each one costs a pass over the whole image."""
    timeout_s: float = DECODE_TIMEOUT_S
    """Seconds for decoding and resizing. Bulk workers enforce it by ending a process; a decoder cannot be stopped."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_scans"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: a decoder limit must be at least 1.")
        if self.timeout_s <= 0:
            raise ConfigError(f"timeout_s={self.timeout_s}: a decoder limit must be above 0.")
        pillow_limit = Image.MAX_IMAGE_PIXELS
        if pillow_limit is not None and self.max_pixels > pillow_limit:
            raise ConfigError(
                f"max_pixels={self.max_pixels} is above Pillow's limit of {pillow_limit}, beyond which it refuses "
                "or warns by itself; lower max_pixels, or raise PIL.Image.MAX_IMAGE_PIXELS before making the limits."
            )

    def check_bytes(self, num_bytes: int) -> None:
        """Refuse an encoded image by its size.

        Raises:
            ImageError: ``empty`` or ``too_many_bytes``.
        """
        if not num_bytes:
            raise ImageError(ImageErrorCode.EMPTY)
        if num_bytes > self.max_bytes:
            raise ImageError(ImageErrorCode.TOO_MANY_BYTES, f"{num_bytes} bytes, the limit is {self.max_bytes}")

    def check_size(self, width: int, height: int) -> None:
        """Refuse an image by its header alone.

        Raises:
            ImageError: ``corrupt`` for a side of 0, ``too_many_pixels`` above the limit.
        """
        if width < 1 or height < 1:
            raise ImageError(ImageErrorCode.CORRUPT, f"its header says {width} x {height} pixels")
        if width * height > self.max_pixels:
            raise ImageError(
                ImageErrorCode.TOO_MANY_PIXELS, f"{width} x {height} pixels, the limit is {self.max_pixels}"
            )

    def check_coded_size(self, coded_width: int, coded_height: int, width: int, height: int) -> None:
        """Refuse a picture whose decoder would create many more pixels than the picture has, e.g. a huge tile.

        Raises:
            ImageError: ``too_many_pixels``.
        """
        # Tiles that are no larger than their picture are at most four times as large together.
        if coded_width * coded_height > max(self.max_pixels, 4 * width * height):
            raise ImageError(
                ImageErrorCode.TOO_MANY_PIXELS,
                f"{width} x {height} pixels coded as {coded_width} x {coded_height}, the limit is {self.max_pixels}",
            )


def check_pieces(num_pieces: int, name: str, width: int, height: int) -> None:
    """Refuse a picture that comes in too many pieces for its size.

    Raises:
        ImageError: ``corrupt``.
    """
    most = max_pieces(width, height)
    if num_pieces > most:
        raise ImageError(ImageErrorCode.CORRUPT, f"{num_pieces} {name} for {width} x {height} pixels, more than {most}")


def max_pieces(width: int, height: int) -> int:
    """Largest number of pieces (chunks, strips, tiles) of a picture."""
    return _PIECES_OF_ANY_PICTURE + width * height // _PIXELS_PER_PIECE


DEFAULT_LIMITS = DecodeLimits()
