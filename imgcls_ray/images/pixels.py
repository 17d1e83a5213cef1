"""Convert a loaded Pillow image to 8-bit RGB, with the rules for alpha, palettes, grey, CMYK and depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import BmpImagePlugin, Image, ImagePalette, TiffImagePlugin

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images import tiff_tags

if TYPE_CHECKING:
    from collections.abc import Iterator

_SAMPLES_OF_BLOCK = 1 << 18
_GREY16_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
# Not among them: integers and floats of 32 bits, which have no agreed black and white, and LAB, which Pillow cannot
# convert.
_READABLE_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})


def to_rgb(image: Image.Image) -> np.ndarray:
    """Convert the stored pixels, composited on white, to uint8 (H, W, 3), writable.

    Raises:
        ImageError: ``unsupported_format`` where the samples have no agreed black and white.
    """
    if image.mode in _GREY16_MODES:
        return _grey16_to_rgb(image)
    if image.mode not in _READABLE_MODES:
        raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"pixels of Pillow mode {image.mode}")
    is_transparent = image.has_transparency_data
    if is_transparent and isinstance(image, BmpImagePlugin.BmpImageFile):
        # A fourth byte that nobody set: no writer means a picture of which nothing is seen.
        is_transparent = image.getchannel("A").getextrema() != (0, 0)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    # Some rows at a time: each step of a conversion is a picture of its own, of four bytes a pixel.
    for rows in row_blocks(pixels):
        block = image.crop((0, rows.start, image.width, min(rows.stop, image.height)))
        pixels[rows] = np.asarray(_composite_on_white(block) if is_transparent else block.convert("RGB"))
    return pixels


def _composite_on_white(image: Image.Image) -> Image.Image:
    # Pillow would drop the premultiplied alpha of "La" on the direct way.
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _grey16_to_rgb(image: Image.Image) -> np.ndarray:
    """Scale by the depth that the file declares, so that 4095 is white in a 12-bit file and grey in a 16-bit one."""
    samples = np.asarray(image)
    white = 0xFFFF
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        white = (1 << image.tag_v2.get(tiff_tags.BITS_PER_SAMPLE, (16,))[0]) - 1
        if image.tag_v2.get(tiff_tags.PHOTOMETRIC) == tiff_tags.WHITE_IS_ZERO:
            samples = white - samples
    grey = scale_to_8_bits(samples, white)
    if "transparency" in image.info:
        grey[samples == image.info["transparency"]] = 255
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)


def scale_to_8_bits(samples: np.ndarray, white: int) -> np.ndarray:
    """Scale samples from 0..``white`` to uint8 0..255, rounded."""
    scaled = np.empty(samples.shape, np.uint8)
    # Some rows at a time: the numbers between need four bytes a sample.
    for rows in row_blocks(samples):
        part = samples[rows].astype(np.uint32)
        part *= 255
        part += white // 2
        part //= white
        scaled[rows] = part
    return scaled


def row_blocks(samples: np.ndarray) -> Iterator[slice]:
    """Slices of rows that hold some hundred thousand samples each."""
    num_rows = max(1, _SAMPLES_OF_BLOCK * len(samples) // samples.size)
    for first in range(0, len(samples), num_rows):
        yield slice(first, first + num_rows)


def scale_colour_key(image: Image.Image, *, bit_depth: int) -> None:
    """Bring a PNG's transparent grey or colour to 8 bits, as Pillow does with the pixels but not with the key."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and bit_depth == 16:
        # Pillow keeps the high bytes; colours that differ from the key in the low ones only become transparent too.
        image.info["transparency"] = tuple(sample >> 8 for sample in key)
    elif isinstance(key, int) and image.mode in ("1", "L"):
        image.info["transparency"] = key * 255 // ((1 << bit_depth) - 1)


def correct_palette(image: TiffImagePlugin.TiffImageFile) -> None:
    """Give a TIFF that is not loaded yet the colours of a palette of 8 bits, where its writer forgot that they have 16.

    As libtiff does: all of a picture's colours in the lowest 256th mean the same mistake.
    """
    colours = image.tag_v2.get(tiff_tags.COLOR_MAP)
    if image.mode in ("P", "PA") and colours and max(colours) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
