"""Boxes of a picture as images of their own: the picture is decoded once for all of them.

A box is ``x1,y1,x2,y2``, in pixels of the upright picture from its upper left corner, or ``shares:x1,y1,x2,y2`` of its
width and height. The crop has every pixel that the box touches.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageError, ImageErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

# So far a box may reach out of its picture, because detectors round: a share of the side, and at least one pixel.
_MAX_OUTSIDE = 0.01
# What a share times a width is off by, as floats are.
_ROUNDING = 1e-6
SHARES = "shares:"


class Picture:
    """A picture in its file's bytes, of which several crops are taken. Any threads may take them.

    Its pixels are in memory from the first crop to the last one, or not at all if there is one.

    Args:
        data: of the file.
        num_crops: that will be taken.
    """

    def __init__(self, data: bytes, num_crops: int = 1) -> None:
        self.data = data
        self.failure: ImageError | None = None
        """Why no crop of it can be taken."""
        self._num_left = num_crops
        self._pixels: np.ndarray | None = None
        self._lock = threading.Lock()

    def decoded(self, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
        """The whole picture, for one crop.

        Raises:
            ImageError: what ``decode`` raised, for each crop.
        """
        with self._lock:
            self._num_left -= 1
            if self.failure is not None:
                raise ImageError(self.failure.code, self.failure.detail)
            pixels = self._pixels
            if pixels is None:
                try:
                    pixels = decode(self.data)
                except ImageError as error:
                    self.failure = ImageError(error.code, error.detail)
                    raise
            self._pixels = pixels if self._num_left > 0 else None
        return pixels


@dataclass(frozen=True, slots=True)
class Crop:
    """What stands for the bytes of an image, if it is a box of a picture."""

    picture: Picture
    box: str


def cut(pixels: np.ndarray, box: str) -> np.ndarray:
    """The pixels of a box.

    Args:
        pixels: of the whole upright picture, (H, W, 3).
        box: as in the module's first words.

    Returns:
        A copy, C-contiguous and writable.

    Raises:
        ImageError: ``bad_box``.
    """
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = _corners(box, width, height)
    (left, right), (top, bottom) = _span(x1, x2, width), _span(y1, y2, height)
    return pixels[top:bottom, left:right].copy()


def _corners(box: str, width: int, height: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = map(float, box.removeprefix(SHARES).split(","))
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise ImageError(ImageErrorCode.BAD_BOX, f"{box}: needs four finite numbers")
    if x2 <= x1 or y2 <= y1:
        raise ImageError(ImageErrorCode.BAD_BOX, f"{box}: x2 and y2 need to be larger than x1 and y1")
    if box.startswith(SHARES):
        x1, y1, x2, y2 = x1 * width, y1 * height, x2 * width, y2 * height
    out_x, out_y = (max(1.0, _MAX_OUTSIDE * side) + _ROUNDING for side in (width, height))
    is_inside = -out_x <= x1 < width and x2 <= width + out_x and -out_y <= y1 < height and y2 <= height + out_y
    if not is_inside or x2 <= 0 or y2 <= 0:
        raise ImageError(ImageErrorCode.BAD_BOX, f"{box}: the picture is {width} x {height} pixels")
    return x1, y1, x2, y2


def _span(first: float, last: float, length: int) -> tuple[int, int]:
    """All pixels that an interval touches; at least one."""
    start = min(max(math.floor(first + _ROUNDING), 0), length - 1)
    return start, max(min(math.ceil(last - _ROUNDING), length), start + 1)
