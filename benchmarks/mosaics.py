"""Large pictures as sharp as their pixels allow: mosaics of many photographs, none of them enlarged.

A class is five of the photographs; its mosaics show more of these than others do. How much more differs from mosaic to
mosaic, so that a network is sure of some and in doubt about others.

No camera is as sharp as that: its lens and the mosaic of its sensor blur. ``soften`` does the same to the photographs.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NUM_CLASSES = 10
_PER_CLASS = 5
_TILE = 300
_SHARES = (0.3, 0.9)
"""Of the tiles that are certainly of the mosaic's class."""
QUALITY = 92
"""Of the files of cameras: 80 makes them half as large."""
# Of a sensor in good light, of 255. What a lens blurs, noise makes large again as a file.
_NOISE = 2.0


class Photographs(NamedTuple):
    """The material of mosaics, at one scale."""

    pixels: list[np.ndarray]
    """uint8 (H, W, 3), both sides at least ``tile``."""
    tile: int
    """Side of a tile, pixels."""


def read_photographs(paths: Sequence[Path]) -> Photographs:
    """Read the photographs that are large enough for a tile."""
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return Photographs([array for array in pixels if min(array.shape[:2]) >= _TILE], _TILE)


def soften(photographs: Photographs, sigma: float) -> Photographs:
    """The same photographs as a camera takes them, whose blur has a standard deviation of so many pixels.

    At 0.7, half of the contrast is left at 0.27 cycles per pixel, as behind an ordinary lens and sensor. Seams between
    tiles stay sharp.
    """
    if not sigma:
        return photographs
    rng = np.random.default_rng(0)
    blurred = [
        np.asarray(Image.fromarray(array).filter(ImageFilter.GaussianBlur(sigma)), np.float32)
        for array in photographs.pixels
    ]
    noisy = [array + _NOISE * rng.standard_normal((*array.shape[:2], 1), np.float32) for array in blurred]
    return Photographs([np.clip(array.round(), 0, 255).astype(np.uint8) for array in noisy], photographs.tile)


def shrink(photographs: Photographs, factor: float) -> Photographs:
    """The same photographs smaller: mosaics of them look like large ones after resizing, and cost nearly nothing."""
    tile = round(photographs.tile * factor)
    return Photographs(
        [
            np.asarray(
                Image.fromarray(array).resize(
                    (max(tile, round(array.shape[1] * factor)), max(tile, round(array.shape[0] * factor))),
                    Image.Resampling.BILINEAR,
                )
            )
            for array in photographs.pixels
        ],
        tile,
    )


def compose(photographs: Photographs, width: int, height: int, label: int, rng: np.random.Generator) -> np.ndarray:
    """Compose one mosaic of the class ``label``: uint8 (height, width, 3)."""
    tile, count = photographs.tile, len(photographs.pixels)
    share = rng.uniform(*_SHARES)
    mosaic = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            number = int(rng.integers(count))
            if rng.uniform() < share:
                number = label * _PER_CLASS + number % _PER_CLASS
            photograph = photographs.pixels[number][:, :: int(rng.choice((-1, 1)))]
            y, x = (int(rng.integers(side - tile + 1)) for side in photograph.shape[:2])
            place = mosaic[top : top + tile, left : left + tile]
            place[:] = photograph[y : y + place.shape[0], x : x + place.shape[1]]
    return mosaic


def encode(mosaic: np.ndarray, quality: int = QUALITY) -> bytes:
    """As JPEG, with halved colours as cameras write them."""
    file = io.BytesIO()
    Image.fromarray(mosaic).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()
