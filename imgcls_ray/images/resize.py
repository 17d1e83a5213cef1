"""Resize pictures as torch's antialiased uint8 kernel does, bit for bit, without torch, whose import takes seconds.

That kernel is Pillow's two passes with weights of 16 bits: first every row becomes as wide as the result, then every
column as high, and the pixels between are rounded to uint8. fast_image_resize has the same arithmetic, but takes both
passes in the other order. So it is given one pass at a time.

The row pass is done for some rows at a time, because what goes in and out of the library is copied: copies that stay in
the processor's cache cost little, those of a photograph of 36 MB as much as the resizing.
"""

from __future__ import annotations

import math
import threading
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

try:
    import cykooz_resizer as fir
except ModuleNotFoundError:  # there are no wheels of it for every processor
    fir = None

if TYPE_CHECKING:
    from cykooz_resizer import ImageData, ResizeOptions

Interpolation: TypeAlias = Literal["bilinear", "bicubic"]

# Of one slice of rows. Its weights are computed anew for each, which costs as much as 16 rows or so.
_BYTES_AT_ONCE = 2**20
# How far a weight reaches, in pixels of the result where that is the smaller one, else of the picture.
_REACH = {"bilinear": 1.0, "bicubic": 2.0}

# Where a pass makes more than 128 pixels one, torch's weights have one bit more than the library's.
_LARGEST_SCALE = 100
_MAX_PRECISION = 22

_of_thread = threading.local()


def load_resizer() -> None:
    """Make a worker process ready to resize, so that its first image is as fast as its others.

    Where torch resizes, it is imported here: the seconds that this takes are no image's, and what it needs does not
    count where memory is limited afterwards. Each thread of a worker is one core, so torch starts no more of them.
    """
    if fir is None:
        import torch

        torch.set_num_threads(1)


def resize(
    pixels: np.ndarray,
    height: int,
    width: int,
    interpolation: Interpolation = "bilinear",
    *,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> np.ndarray:
    """Resize a picture and cut a box out of the result. The interpreter's lock is free most of the time.

    Args:
        pixels: uint8 (H, W, 3).
        height, width: of the whole result.
        interpolation: with antialiasing.
        rows, columns: the box; only what it needs is computed.

    Returns:
        uint8, the box: (height, width, 3) if none is given. A view of ``pixels`` where nothing is to be done.
    """
    if fir is None:
        return _resize_with_torch(pixels, height, width, interpolation)[rows, columns]
    if pixels.shape[1] != width:
        pixels = _resize_rows(pixels, height, width, interpolation, rows, columns)
    else:
        pixels = pixels[:, columns]
    if pixels.shape[0] > height * _LARGEST_SCALE:
        # The same pass, over rows instead of columns.
        return _steep_pass(pixels.swapaxes(0, 1), height, interpolation).swapaxes(0, 1)[rows]
    if pixels.shape[0] != height:
        return _one_pass(pixels, height, pixels.shape[1], interpolation)[rows].copy()
    return pixels[rows]


def _resize_rows(
    pixels: np.ndarray, height: int, width: int, interpolation: Interpolation, rows: slice, columns: slice
) -> np.ndarray:
    """The first pass; rows that the box has nothing of are left as they come."""
    first, last, _ = rows.indices(height)
    scale = len(pixels) / height
    reach = _REACH[interpolation] * max(scale, 1.0) + 1
    top = max(0, math.floor((first + 0.5) * scale - reach))
    bottom = min(len(pixels), math.ceil((last - 0.5) * scale + reach))
    left, right, _ = columns.indices(width)
    narrow = np.empty((len(pixels), right - left, 3), np.uint8)
    is_steep = pixels.shape[1] > width * _LARGEST_SCALE
    step = max(1, _BYTES_AT_ONCE // (3 * max(pixels.shape[1], width)))
    for start in range(top, bottom, step):
        some = pixels[start : min(start + step, bottom)]
        narrower = (
            _steep_pass(some, width, interpolation) if is_steep else _one_pass(some, len(some), width, interpolation)
        )
        narrow[start : start + len(some)] = narrower[:, columns]
    return narrow


def _one_pass(pixels: np.ndarray, height: int, width: int, interpolation: Interpolation) -> np.ndarray:
    """Resize along one axis; the result cannot be written to."""
    resized = fir.ImageData(width, height, fir.PixelType.U8x3)
    _resizer().resize(_image(pixels), resized, _options(interpolation))
    return np.frombuffer(resized.get_buffer(), np.uint8).reshape(height, width, 3)


def _image(pixels: np.ndarray) -> ImageData:
    height, width, _ = pixels.shape
    return fir.ImageData(width, height, fir.PixelType.U8x3, pixels.tobytes())


def _resizer() -> fir.Resizer:
    # It keeps memory for what is between two passes, and refuses a second thread.
    if not hasattr(_of_thread, "resizer"):
        _of_thread.resizer = fir.Resizer()
    return _of_thread.resizer


@cache
def _options(interpolation: Interpolation) -> ResizeOptions:
    kind = fir.FilterType.bilinear if interpolation == "bilinear" else fir.FilterType.catmull_rom
    return fir.ResizeOptions(fir.ResizeAlg.convolution(kind), use_alpha=False)


def _steep_pass(pixels: np.ndarray, width: int, interpolation: Interpolation) -> np.ndarray:
    """Make every row as wide as the result: torch's arithmetic once more, for the few pictures that are so large."""
    weights, precision = _steep_weights(pixels.shape[1], width, interpolation)
    narrow = np.empty((len(pixels), width, 3), np.uint8)
    for column, (left, of_column) in enumerate(weights):
        # Whole numbers far below 2 ** 53: no order of summation rounds.
        sums = np.tensordot(pixels[:, left : left + len(of_column)], of_column, (1, 0))
        narrow[:, column] = np.clip((sums + (1 << precision >> 1)) // (1 << precision), 0, 255)
    return narrow


@lru_cache(maxsize=8)
def _steep_weights(length: int, width: int, interpolation: Interpolation) -> tuple[list[tuple[int, np.ndarray]], int]:
    """Of each pixel of the result the first pixel that it is made of, and all of their weights; and their bits.

    As ``HelperInterpBase::_compute_index_ranges_int16_weights`` of torch's ``UpSampleKernel.cpp`` has them.
    """
    scale = length / width
    reach = _REACH[interpolation] * scale
    real: list[tuple[int, np.ndarray]] = []
    for center in scale * (np.arange(width) + 0.5):
        left, right = max(int(center - reach + 0.5), 0), min(int(center + reach + 0.5), length)
        weights = _filter((np.arange(left, right) - center + 0.5) / scale, interpolation)
        real.append((left, weights / weights.sum()))
    largest = max(weights.max() for _, weights in real)
    precision = next(
        (bits for bits in range(_MAX_PRECISION) if int(0.5 + largest * 2 ** (bits + 1)) >= 2**15), _MAX_PRECISION
    )
    return [(left, np.trunc(weights * 2**precision + np.copysign(0.5, weights))) for left, weights in real], precision


def _filter(distance: np.ndarray, interpolation: Interpolation) -> np.ndarray:
    """Weights of pixels by their distance, in pixels of the result (bicubic: Keys 1981, a = -0.5)."""
    x = np.abs(distance)
    if interpolation == "bilinear":
        weights: np.ndarray = np.maximum(1 - x, 0)
        return weights
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))


def _resize_with_torch(pixels: np.ndarray, height: int, width: int, interpolation: Interpolation) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    import torch

    # HWC memory seen as NCHW is channels-last, which torch's vectorised uint8 kernel wants.
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    resized = torch.nn.functional.interpolate(
        image, size=(height, width), mode=interpolation, antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).numpy()
