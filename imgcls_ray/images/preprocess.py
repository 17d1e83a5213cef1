"""Turn upright RGB pixels into a model's input, the same way on every path.

``Preprocess`` is written into the model folder; train, evaluate, bulk, serve and export read it from there. Pixels stay
uint8 up to the engine, which normalises inside the network: a quarter of float32's traffic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from imgcls_ray.images.resize import Interpolation, resize

if TYPE_CHECKING:
    import numpy as np

Decode: TypeAlias = Literal["full", "scaled"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The pixels after resizing then differ from those of a whole decoding by 0.3 of 255 in the mean, or less. With a margin
# of 2 it is 0.5, of 4 up to 0.35 (`python -m benchmarks.scaled_decode`, pictures as sharp as their pixels allow).
_SCALED_MARGIN = 5
# Resizing the short side of a 1 x 20,000 picture to 256 would make 1.3 gigapixels to keep 0.005 % of them.
_MAX_ASPECT_RATIO = 16


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop the centre, normalise.

    The order and meaning are those of ``torchvision.transforms.v2`` ``Resize(resize_size, antialias=True)`` and
    ``CenterCrop(crop_size)`` on uint8 pixels; ``mean`` and ``std`` are on the 0-1 scale, RGB order.
    """

    resize_size: int = 256
    """Length of the short side after resizing, pixels; of both sides where ``crop_mode`` is ``squash``."""
    crop_size: int = 224
    """Height and width of the model's input, pixels."""
    interpolation: Interpolation = "bilinear"
    crop_mode: Literal["center", "squash"] = "center"
    """timm's words: ``squash`` makes the whole picture square, ``center`` keeps its shape and loses its ends."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    decode: Decode = "full"
    """``scaled``: a JPEG is decoded at 1/2, 1/4 or 1/8 where its short side stays 5 times ``resize_size`` or more."""

    @property
    def min_side(self) -> int | None:
        """Short side that decoding leaves at least, pixels; None where it decodes pictures whole."""
        return self.min_side_for(self.resize_size)

    def min_side_for(self, size: int) -> int | None:
        """As ``min_side``, for pictures whose short side becomes ``size`` pixels."""
        return None if self.decode == "full" else _SCALED_MARGIN * size

    def __post_init__(self) -> None:
        if not 1 <= self.crop_size <= self.resize_size <= 4096:
            raise ValueError(
                f"preprocessing needs 1 <= crop_size <= resize_size <= 4096, "
                f"got crop_size={self.crop_size}, resize_size={self.resize_size}"
            )
        if not all(math.isfinite(m) for m in self.mean) or not all(1e-6 < s < 1e6 for s in self.std):
            raise ValueError(
                f"preprocessing needs a finite mean and a positive std per channel, got {self.mean} and {self.std}"
            )


def preprocess_image(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Resize and crop one image.

    Args:
        pixels: uint8 (H, W, 3), any size from 1 x 1 on.

    Returns:
        uint8 (crop_size, crop_size, 3); a view, not necessarily contiguous.
    """
    pixels = _limit_aspect_ratio(pixels)
    height, width = _resized_shape(pixels.shape[0], pixels.shape[1], preprocess)
    # CenterCrop's own rounding, so that results match torchvision's to the pixel.
    top, left = (round((length - preprocess.crop_size) / 2.0) for length in (height, width))
    rows, columns = (slice(start, start + preprocess.crop_size) for start in (top, left))
    return resize(pixels, height, width, preprocess.interpolation, rows=rows, columns=columns)


def _resized_shape(height: int, width: int, preprocess: Preprocess) -> tuple[int, int]:
    short_side = preprocess.resize_size
    if preprocess.crop_mode == "squash":
        return short_side, short_side
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def _limit_aspect_ratio(pixels: np.ndarray) -> np.ndarray:
    """Crop the long side centrally to 16 times the short one: the centre crop keeps no more than its middle."""
    height, width = pixels.shape[:2]
    longest = min(height, width) * _MAX_ASPECT_RATIO
    if max(height, width) <= longest:
        return pixels
    if height > width:
        top = (height - longest) // 2
        return pixels[top : top + longest]
    left = (width - longest) // 2
    return pixels[:, left : left + longest].copy()
