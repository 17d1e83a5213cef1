"""How much one image may cost, decided before any of its pixels are decoded."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from imgcls_ray.errors import ConfigError, ImageError, ImageErrorCode


@dataclass(frozen=True)
class DecodeLimits:
    """What a file may claim before decoding it is refused.

    Raises:
        ConfigError: A limit is not positive, or ``max_pixels`` is above the size at which Pillow itself objects.
    """

    max_bytes: int = 100 * 2**20
    """Encoded size, in bytes."""
    max_pixels: int = 89_478_485
    """Width times height, as the header gives it. The default is Pillow's own limit: 256 MiB as RGB."""
    max_scans: int = 100
    """Scans of one JPEG. Encoders write about ten; each costs a pass over the whole image, however few its bytes."""
    timeout_s: float = 60.0
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


DEFAULT_LIMITS = DecodeLimits()
