"""Decode ordinary JPEGs with libjpeg-turbo, whole or at a fraction of their size.

At a fraction, the decoder computes the mean of 2 x 2, 4 x 4 or 8 x 8 pixels straight from the coefficients, so the
pixels between are never made. Reading the coefficients, which is most of the work for a sharp picture, stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import simplejpeg

from imgcls_ray.images.jpeg import LOSSLESS_SOFS
from imgcls_ray.images.orientation import turn_upright

if TYPE_CHECKING:
    import numpy as np

    from imgcls_ray.images.jpeg import JpegHeader

_SCALES = (8, 4, 2)


def choose_scale(header: JpegHeader, min_side: int | None) -> int:
    """Choose by how much a JPEG is decoded smaller than it is: 1, 2, 4 or 8.

    It is the largest number that leaves a short side of ``min_side`` pixels, and that divides both sides: a picture
    that ends inside a block of pixels would be stretched by a part of a pixel.

    Args:
        min_side: pixels; None decodes every picture whole.
    """
    # Without coefficients there is nothing to take a mean from.
    if min_side is None or header.sof in LOSSLESS_SOFS:
        return 1
    short_side = min(header.width, header.height)
    fitting = (
        scale
        for scale in _SCALES
        if short_side >= scale * min_side and header.width % scale == 0 and header.height % scale == 0
    )
    return next(fitting, 1)


def decode_jpeg_fast(data: bytes, header: JpegHeader, scale: int = 1) -> np.ndarray:
    """Decode a JPEG whose header is ``is_fast``. The interpreter's lock is free meanwhile.

    Args:
        scale: of ``choose_scale``.

    Returns:
        Upright RGB, uint8 (H / scale, W / scale, 3), C-contiguous and writable.

    Raises:
        ValueError: libjpeg-turbo gave up or had a warning, also because of a missing end; or it reads another size
            from the file.
    """
    height, width = header.height // scale, header.width // scale
    # The decoder takes the smallest of its scales that leaves so many pixels. A whole picture of one pixel would have
    # an eighth of one, so it is asked for without.
    least = {"min_height": height, "min_width": width} if scale > 1 else {}
    pixels: np.ndarray = simplejpeg.decode_jpeg(data, colorspace="RGB", **least)
    if pixels.shape != (height, width, 3):
        raise ValueError(f"decoded {pixels.shape}, expected {(height, width, 3)}")
    return turn_upright(pixels, header.orientation)
