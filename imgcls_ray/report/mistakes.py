"""Draw one sheet of the worst mistakes: confident, but wrong. In some of them the dataset's label is wrong."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from imgcls_ray.images.annotate import annotate_image, error_card
from imgcls_ray.report.pictures import load_pixels, to_jpeg
from imgcls_ray.words import tell_apart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.evaluate.evaluation import Mistake
    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.storage import FetchLimits

_SIDE = 240
"""Longer side of a picture, and width of a caption, in pixels."""
_MIN_HEIGHT = 32  # of a cell: a picture of a line's height must be seen
_GUTTER = 12
_BACK = (245, 245, 245)
_NUM_WORKERS = 4  # each may hold a large picture
_MAX_COLUMNS = 10


def draw_mistakes(
    mistakes: Sequence[Mistake],
    class_names: Sequence[str],
    *,
    fetch_limits: FetchLimits,
    decode_limits: DecodeLimits,
) -> bytes:
    """Draw mistakes in their order, row by row, as one JPEG. There must be one at least."""
    names = tell_apart(dict(enumerate(class_names)))

    def draw(mistake: Mistake) -> Image.Image:
        pixels = load_pixels(mistake.uri, fetch_limits, decode_limits)
        if isinstance(pixels, str):
            return error_card(f"{mistake.path}\n{pixels}", size=(_SIDE, _SIDE))
        lines = [
            f"says {names[mistake.predicted_id]} {mistake.score:.3f}",
            f"is {names[mistake.label_id]}",
            mistake.path.replace("\\", "/").rpartition("/")[2],
        ]
        return annotate_image(_cell(pixels), lines)

    with ThreadPoolExecutor(_NUM_WORKERS) as pool:
        return to_jpeg(_sheet(list(pool.map(draw, mistakes))), quality=85)


def _cell(pixels: np.ndarray) -> np.ndarray:
    """The whole picture in a cell as wide as all others; beside a tall one is the sheet's own colour."""
    picture = Image.fromarray(pixels)
    scale = _SIDE / max(picture.size)
    # A thin line keeps one pixel.
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Resampling.NEAREST if scale > 1 else Resampling.LANCZOS)
    height = max(picture.height, _MIN_HEIGHT)
    cell = Image.new("RGB", (_SIDE, height), _BACK)
    cell.paste(picture, ((_SIDE - picture.width) // 2, (height - picture.height) // 2))
    return np.asarray(cell)


def _sheet(cards: list[Image.Image]) -> Image.Image:
    num_columns = min(_MAX_COLUMNS, max(1, round((1.6 * len(cards)) ** 0.5)), len(cards))
    rows = [cards[start : start + num_columns] for start in range(0, len(cards), num_columns)]
    heights = [max(card.height for card in row) for row in rows]
    width = max(card.width for card in cards)
    sheet = Image.new(
        "RGB", (_GUTTER + num_columns * (width + _GUTTER), _GUTTER + sum(height + _GUTTER for height in heights)), _BACK
    )
    top = _GUTTER
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            left = _GUTTER + column * (width + _GUTTER) + (width - card.width) // 2
            sheet.paste(card, (left, top + height - card.height))
        top += height + _GUTTER
    return sheet
