"""Measure one image for the check of a data set; this takes a fifth of the time of decoding."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from imgcls_ray.images.careful import read_stored_form
from imgcls_ray.images.decoder import DEFAULT_LIMITS, DecodeLimits, decode_with_header
from imgcls_ray.images.orientation import UPRIGHT
from imgcls_ray.images.resize import resize
from imgcls_ray.images.sniff import sniff_format

if TYPE_CHECKING:
    from imgcls_ray.images.jpeg import JpegHeader

# The perceptual hash and the brightness are of a picture of so many pixels a side.
_SMALL = 32
# Its views are cut out of one of so many.
_FINE = 2 * _SMALL
_WHOLE = (0.0, float(_FINE))
_MIDDLES = [((1 - side) / 2 * _FINE, (1 + side) / 2 * _FINE) for side in (0.975, 0.95, 0.925)]
_PARTS = [(0.0, 0.85 * _FINE), (0.15 * _FINE, float(_FINE))]
NUM_COPIES = 1 + len(_MIDDLES) + 1
"""Views that a copy may show whole: they come first."""
NUM_VIEWS = NUM_COPIES + len(_PARTS)
# Difference within a line of a border: in a JPEG, what is beside it shows in it.
_PLAIN = 32
_SHARE_KEPT, _STANDARD_DEVIATION = 0.9, 50.0
_HASH_ROWS, _HASH_COLUMNS = 8, 16
HASH_BYTES = _HASH_ROWS * _HASH_COLUMNS // 8
# Sharpness is looked for in so many pixels a side, from the middle of the picture: things are there. Where there is
# little, more of the picture is looked at.
_MIDDLE, _LARGE_MIDDLE = 64, 512
_SURELY_SHARP = 50.0
_COLOURS_OF_MODE = {"CMYK": "CMYK", "L": "grey", "LA": "grey", "La": "grey", "1": "grey"}


class ImageFacts(NamedTuple):
    """Measurements of an upright picture."""

    width: int
    height: int
    kind: str
    """Format and colours as stored: ``JPEG RGB``, ``JPEG CMYK``, ``PNG 16-bit``, ``PNG grey``, ..."""
    is_turned: bool
    """Whether the file stores the picture rotated or mirrored and declares it."""
    brightness: float
    """Mean of all pixels, 0 (black) to 255."""
    contrast: float
    """Standard deviation of the picture at 32 x 32 pixels, 0 (one colour) to 127."""
    sharpness: float
    """Variance of the Laplacian around the middle of the picture: some hundreds in most photographs, below ten without
    any edge (Pech-Pacheco et al. 2000, https://doi.org/10.1109/ICPR.2000.903548)."""
    perceptual_hash: bytes
    """128 signs of the picture's lowest frequencies; nearly equal pictures differ in few (Zauner 2010, "pHash")."""
    view_hashes: bytes
    """Hashes of the other views of ``views``, one after the other: of what a mirrored or cropped copy shows."""
    digest: bytes
    """XXH3 hash of the file, 128 bits: seven times as fast as SHA-256, and an intended collision gives no advantage."""


def measure_image(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> ImageFacts:
    """Decode an image, by the one decoder, and measure it.

    Raises:
        ImageError: as ``decode_image``.
    """
    pixels, header = decode_with_header(data, limits)
    kind, is_turned = _kind(data, header, limits)
    looks = views(pixels)
    small = looks[0]
    brightness, contrast = _mean_and_deviation(small)
    return ImageFacts(
        width=pixels.shape[1],
        height=pixels.shape[0],
        kind=kind,
        is_turned=is_turned,
        brightness=brightness,
        contrast=contrast,
        sharpness=_sharpness(pixels),
        perceptual_hash=_perceptual_hash(small),
        view_hashes=hashes_of(looks[1:]),
        digest=xxhash.xxh3_128_digest(data),
    )


def views(pixels: np.ndarray) -> np.ndarray:
    """What a picture looks like, and what its copies look like: float32 (1 + NUM_VIEWS, 32, 32), 0 to 255.

    The whole picture; mirrored; its middle, three times, for copies that are cropped; without a border of one colour;
    and without its lowest and without its highest part, where others write their names.

    Args:
        pixels: uint8 (H, W, 3).
    """
    # Four rows for each one that is left are enough, and every second row of a photograph takes half of the time; of a
    # very large picture columns are left out too.
    step_y, step_x = max(1, pixels.shape[0] // (4 * _SMALL)), max(1, pixels.shape[1] // (32 * _SMALL))
    thinned = np.ascontiguousarray(pixels[::step_y, ::step_x])
    fine = resize(thinned, _FINE, _FINE) @ np.array([0.299, 0.587, 0.114], np.float32)
    whole = _cut(fine, _WHOLE, _WHOLE)
    middles = [_cut(fine, side, side) for side in _MIDDLES]
    parts = [_cut(fine, part, _WHOLE) for part in _PARTS]
    return np.stack([whole, whole[:, ::-1], *middles, _cut(fine, *_borders(thinned)), *parts])


def hashes_of(looks: np.ndarray) -> bytes:
    """Perceptual hashes of ``views``, one after the other."""
    return b"".join(map(_perceptual_hash, looks))


def copy_difference(one: np.ndarray, two: np.ndarray) -> float:
    """How far two pictures are from being copies of each other, whatever their brightness and contrast, 0 to 255.

    As if both had a standard deviation of 50, and without the tenth of the pixels that differs most: a sign in a corner
    makes no other picture. The best of all ways to lay a whole picture over a view of the other one.

    Args:
        one, two: of ``views``.
    """
    ways = [(one[0], two[0])]
    for view in range(1, 1 + NUM_COPIES):
        ways += [(one[0], two[view]), (two[0], one[view])]
    return min(_difference(*way) for way in ways)


def _difference(one: np.ndarray, two: np.ndarray) -> float:
    one, two = one.ravel(), two.ravel()
    num_kept = int(_SHARE_KEPT * one.size)
    kept = np.argpartition(np.abs(_standard(one) - _standard(two)), num_kept)[:num_kept]
    # Once more: what differs most has shifted brightness and contrast, too.
    return _STANDARD_DEVIATION * float(np.abs(_standard(one[kept]) - _standard(two[kept])).mean())


def _standard(values: np.ndarray) -> np.ndarray:
    mean, deviation = _mean_and_deviation(values)
    standard: np.ndarray = (values - mean) / max(deviation, 1e-3)
    return standard


def _cut(fine: np.ndarray, rows: tuple[float, float], columns: tuple[float, float]) -> np.ndarray:
    """A part of the picture as float32 (32, 32); begins and ends in pixels of ``fine``."""
    part: np.ndarray = _averages(*rows) @ fine @ _averages(*columns).T
    return part


@functools.lru_cache(256)
def _averages(start: float, end: float) -> np.ndarray:
    """Weights of the 64 pixels in each of 32 equal parts from ``start`` to ``end``: float32 (32, 64)."""
    edges = np.linspace(start, end, _SMALL + 1)[:, None]
    pixels = np.arange(_FINE)
    covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    weights = np.maximum(covered, 0)
    averages: np.ndarray = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return averages


def _borders(thinned: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Rows and columns within a border of one colour, in pixels of the fine picture; all where there is none."""
    green = thinned[:, :, 1]
    edges = []
    for lines in (green, green.T):
        widths = (_num_plain(lines), _num_plain(lines[::-1]))
        start, end = (_FINE * width / len(lines) for width in widths)
        edges.append((start, _FINE - end))
    return edges[0], edges[1]


def _num_plain(lines: np.ndarray) -> int:
    """Number of lines of one colour that come first."""
    for number, line in enumerate(lines[: len(lines) // 8]):
        if int(line.max()) - int(line.min()) > _PLAIN:
            return number
    return len(lines) // 8


def _sharpness(pixels: np.ndarray) -> float:
    sharpness = _laplacian_variance(pixels, _MIDDLE)
    # Sky, or a wall: there may be edges around it.
    return sharpness if sharpness > _SURELY_SHARP else max(sharpness, _laplacian_variance(pixels, _LARGE_MIDDLE))


def _laplacian_variance(pixels: np.ndarray, side: int) -> float:
    top, left = (max(0, (length - side) // 2) for length in pixels.shape[:2])
    green = pixels[top : top + side, left : left + side, 1].astype(np.float32)
    if min(green.shape) < 3:
        return 0.0
    laplacian = 4 * green[1:-1, 1:-1] - green[:-2, 1:-1] - green[2:, 1:-1] - green[1:-1, :-2] - green[1:-1, 2:]
    return _mean_and_deviation(laplacian)[1] ** 2


def _mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    """numpy's own of a thousand values take ten times as long as their sums."""
    flat = values.ravel()
    mean = float(flat.sum()) / flat.size
    return mean, max(0.0, float(flat @ flat) / flat.size - mean * mean) ** 0.5


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


def _kind(data: bytes, header: JpegHeader | None, limits: DecodeLimits) -> tuple[str, bool]:
    """Format and colours, and whether EXIF turns the picture. The bytes were decoded before, so they have a format."""
    if header is not None:
        colours = {1: "grey", 4: "CMYK"}.get(header.num_components, "RGB")
        return f"JPEG {colours if header.precision == 8 else f'{header.precision}-bit'}", header.orientation != UPRIGHT
    image_format = sniff_format(data)
    assert image_format is not None
    mode, orientation = read_stored_form(data, image_format, limits)
    colours = "16-bit" if mode.startswith("I") else _COLOURS_OF_MODE.get(mode, "RGB")
    return f"{image_format.name} {colours}", orientation != UPRIGHT
