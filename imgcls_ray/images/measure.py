"""Measure one image: what a check of a data set wants to know of every picture, at a fifth of what decoding costs."""

from __future__ import annotations

import functools
import hashlib
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from imgcls_ray.images.decoder import DEFAULT_LIMITS, DecodeLimits, decode_image
from imgcls_ray.images.jpeg import read_jpeg_header
from imgcls_ray.images.orientation import UPRIGHT
from imgcls_ray.images.sniff import ImageFormat, sniff_format

# The perceptual hash and the brightness are of a picture of so many pixels a side.
_SMALL = 32
_HASH_ROWS, _HASH_COLUMNS = 8, 16
HASH_BYTES = _HASH_ROWS * _HASH_COLUMNS // 8
# Sharpness is looked for in so many pixels a side, from the middle of the picture: things are there.
_MIDDLE = 96
_EXIF_ORIENTATION = 0x0112
_16_BIT_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L"})


class ImageFacts(NamedTuple):
    """What was measured of an upright picture."""

    width: int
    height: int
    kind: str
    """Format and colours as stored: ``JPEG RGB``, ``JPEG CMYK``, ``PNG 16-bit``, ``PNG grey``, ..."""
    is_turned: bool
    """Whether the file stores it on its side or mirrored, and says so."""
    brightness: float
    """Mean of all pixels, 0 (black) to 255."""
    contrast: float
    """Standard deviation of the picture at 32 x 32 pixels, 0 (one colour) to 127."""
    sharpness: float
    """Variance of the Laplacian in the middle of the picture: some hundreds in most photographs, below ten without any
    edge (Pech-Pacheco et al. 2000, https://doi.org/10.1109/ICPR.2000.903548)."""
    perceptual_hash: bytes
    """128 signs of the picture's lowest frequencies: of nearly equal pictures only few differ. Zauner 2010, "pHash"."""
    digest: bytes
    """First 16 bytes of the file's SHA-256."""


def measure_image(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> ImageFacts:
    """Decode an image, by the one decoder, and measure it.

    Raises:
        ImageError: as ``decode_image``.
    """
    pixels = decode_image(data, limits)
    kind, is_turned = _kind(data)
    small = small_grey(pixels)
    return ImageFacts(
        width=pixels.shape[1],
        height=pixels.shape[0],
        kind=kind,
        is_turned=is_turned,
        brightness=float(small.mean()),
        contrast=float(small.std()),
        sharpness=_sharpness(pixels),
        perceptual_hash=_perceptual_hash(small),
        digest=hashlib.sha256(data).digest()[:16],
    )


def small_grey(pixels: np.ndarray) -> np.ndarray:
    """The whole picture as float32 (32, 32), 0 to 255: what two pictures are compared by.

    Args:
        pixels: uint8 (H, W, 3).
    """
    import torch

    # Four rows for each one that is left are enough, and every second row of a photograph takes half of the time; of a
    # very large picture columns are left out too.
    step_y, step_x = max(1, pixels.shape[0] // (4 * _SMALL)), max(1, pixels.shape[1] // (32 * _SMALL))
    thinned = np.ascontiguousarray(pixels[::step_y, ::step_x])
    image = torch.from_numpy(thinned).permute(2, 0, 1).unsqueeze(0)
    small = torch.nn.functional.interpolate(image, size=(_SMALL, _SMALL), mode="bilinear", antialias=True)
    grey: np.ndarray = small[0].permute(1, 2, 0).numpy() @ np.array([0.299, 0.587, 0.114], np.float32)
    return grey


def _sharpness(pixels: np.ndarray) -> float:
    top, left = (max(0, (side - _MIDDLE) // 2) for side in pixels.shape[:2])
    green = pixels[top : top + _MIDDLE, left : left + _MIDDLE, 1].astype(np.int16)
    if min(green.shape) < 3:
        return 0.0
    laplacian = 4 * green[1:-1, 1:-1]
    laplacian -= green[:-2, 1:-1]
    laplacian -= green[2:, 1:-1]
    laplacian -= green[1:-1, :-2]
    laplacian -= green[1:-1, 2:]
    return float(laplacian.var(dtype=np.float32))


def _perceptual_hash(small: np.ndarray) -> bytes:
    frequencies = _cosines(_HASH_ROWS) @ small @ _cosines(_HASH_COLUMNS).T
    # The mean brightness says nothing of the picture, and the median of the rest sets half of the signs.
    values = frequencies.reshape(-1)
    values[0] = 0
    ordered = np.sort(values)
    return np.packbits(values > (ordered[len(ordered) // 2 - 1] + ordered[len(ordered) // 2]) / 2).tobytes()


@functools.cache
def _cosines(count: int) -> np.ndarray:
    """The first rows of the discrete cosine transform (type II) of 32 values: float32 (count, 32)."""
    angles = np.pi * np.arange(count)[:, None] * (2 * np.arange(_SMALL) + 1) / (2 * _SMALL)
    return np.cos(angles).astype(np.float32)


def _kind(data: bytes) -> tuple[str, bool]:
    """Format and colours, and whether EXIF turns the picture. The bytes were decoded before, so they have a format."""
    image_format = sniff_format(data)
    if image_format is ImageFormat.JPEG:
        header = read_jpeg_header(data)
        colours = {1: "grey", 4: "CMYK"}.get(header.num_components, "RGB")
        return f"JPEG {colours if header.precision == 8 else f'{header.precision}-bit'}", header.orientation != UPRIGHT
    assert image_format is not None
    with Image.open(io.BytesIO(data), formats=[image_format.name]) as picture:
        mode = picture.mode
        is_16_bit = mode in _16_BIT_MODES or (image_format is ImageFormat.PNG and data[24:25] == b"\x10")
        colours = "16-bit" if is_16_bit else {"CMYK": "CMYK", "L": "grey", "LA": "grey", "1": "grey"}.get(mode, "RGB")
        return f"{image_format.name} {colours}", picture.getexif().get(_EXIF_ORIENTATION, UPRIGHT) != UPRIGHT
