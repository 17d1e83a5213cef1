"""Draw one sheet of the worst mistakes: confident, but wrong. In some of them the dataset's label is wrong."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from imgcls_ray.images.annotate import annotate_image, error_card
from imgcls_ray.report.pictures import load_pixels, to_jpeg
from imgcls_ray.report.sheet import CELL_SIDE, as_cell, make_sheet
from imgcls_ray.words import tell_apart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from imgcls_ray.evaluate.evaluation import Mistake
    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.storage import FetchLimits

_NUM_WORKERS = 4  # each may hold a large picture


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
            return error_card(f"{mistake.path}\n{pixels}", size=(CELL_SIDE, CELL_SIDE))
        lines = [
            f"says {names[mistake.predicted_id]} {mistake.score:.3f}",
            f"is {names[mistake.label_id]}",
            mistake.path.replace("\\", "/").rpartition("/")[2],
        ]
        return annotate_image(as_cell(pixels), lines)

    with ThreadPoolExecutor(_NUM_WORKERS) as pool:
        return to_jpeg(make_sheet(list(pool.map(draw, mistakes))), quality=85)
