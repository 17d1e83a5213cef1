"""How much one image may cost, decided before any of its pixels are decoded."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from imgcls_ray.defaults import DECODE_TIMEOUT_S, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from imgcls_ray.errors import ConfigError, ImageError, ImageErrorCode

PEAK_BYTES_PER_PIXEL = 24
"""Memory that decoding takes at most for each pixel of the picture, beside some copies of the encoded file.

Measured: JPEG 3 to 12, PNG 8, TIFF 13, WebP 16, AVIF 17, and the worst of all, a HEIF of 10 bits with alpha, 21.
"""

# A file may come in so many pieces, and in one more for so many pixels: chunks, strips and tiles cost time each,
# however few pixels and bytes they hold. Real files are far below: the smallest tiles have 256 pixels, and a PNG has a
# chunk for 8 kB or, at the worst, for each row.
_PIECES_OF_ANY_PICTURE, _PIXELS_PER_PIECE = 10_000, 128


@dataclass(frozen=True)
class DecodeLimits:
    """What a file may claim before decoding it is refused.

    Raises:
        ConfigError: A limit is not positive, or ``max_pixels`` is above the size at which Pillow itself objects.
    """

    max_bytes: int = MAX_IMAGE_BYTES
    """Encoded size, in bytes."""
    max_pixels: int = MAX_IMAGE_PIXELS
    """Width times height, as the header gives it. The default is Pillow's own limit: 256 MiB as RGB."""
    max_scans: int = 100
    """Scans of one JPEG. Encoders write about ten; each costs a pass over the whole image, however few its bytes."""
    timeout_s: float = DECODE_TIMEOUT_S
    """Decoding and resizing, seconds. Kept by bulk workers, whose processes may be ended; a decoder cannot be."""

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
        """Refuse a picture for which a decoder would have to make many more pixels than it has, e.g. a huge tile.

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
    """Into how many pieces (chunks, strips, tiles) a picture may be cut."""
    return _PIECES_OF_ANY_PICTURE + width * height // _PIXELS_PER_PIECE


DEFAULT_LIMITS = DecodeLimits()
