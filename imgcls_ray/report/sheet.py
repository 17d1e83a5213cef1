"""One picture of many: cards with captions, row by row."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from imgcls_ray.images.annotate import annotate_image

if TYPE_CHECKING:
    from collections.abc import Sequence

CELL_SIDE = 240
"""Longer side of a picture, and width of a caption, in pixels."""
_MIN_HEIGHT = 32  # of a cell: a picture of a line's height must be seen
GUTTER = 12
BACK = (245, 245, 245)
_MAX_COLUMNS = 10


def draw_samples(pictures: Sequence[np.ndarray], captions: Sequence[str]) -> bytes:
    """Draw pictures with a line of text each, as PNG.

    Args:
        pictures: uint8 (H, W, 3) each.
        captions: of the pictures.
    """
    cards = [annotate_image(as_cell(pixels), [caption]) for pixels, caption in zip(pictures, captions, strict=True)]
    buffer = io.BytesIO()
    make_sheet(cards).save(buffer, "PNG")
    return buffer.getvalue()


def as_cell(pixels: np.ndarray) -> np.ndarray:
    """The whole picture in a cell as wide as all others; beside a tall one is the sheet's own colour."""
    picture = Image.fromarray(pixels)
    scale = CELL_SIDE / max(picture.size)
    # A thin line keeps one pixel.
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Resampling.NEAREST if scale > 1 else Resampling.LANCZOS)
    height = max(picture.height, _MIN_HEIGHT)
    cell = Image.new("RGB", (CELL_SIDE, height), BACK)
    cell.paste(picture, ((CELL_SIDE - picture.width) // 2, (height - picture.height) // 2))
    return np.asarray(cell)


def make_sheet(cards: list[Image.Image]) -> Image.Image:
    """Cards row by row, in about the shape of a screen."""
    num_columns = min(_MAX_COLUMNS, max(1, round((1.6 * len(cards)) ** 0.5)), len(cards))
    rows = [cards[start : start + num_columns] for start in range(0, len(cards), num_columns)]
    heights = [max(card.height for card in row) for row in rows]
    width = max(card.width for card in cards)
    sheet = Image.new(
        "RGB", (GUTTER + num_columns * (width + GUTTER), GUTTER + sum(height + GUTTER for height in heights)), BACK
    )
    top = GUTTER
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            left = GUTTER + column * (width + GUTTER) + (width - card.width) // 2
            sheet.paste(card, (left, top + height - card.height))
        top += height + GUTTER
    return sheet
