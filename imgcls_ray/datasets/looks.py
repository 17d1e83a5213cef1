"""Compare the measurements of pictures with the thresholds of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.datasets.findings import FindingCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from imgcls_ray.config import CheckConfig


def judge_looks(good: pa.Table, config: CheckConfig) -> Iterator[tuple[FindingCode, dict[int, str]]]:
    """Findings about the pixels of pictures: for each code, row numbers of the table and the measured values."""
    columns = ("width", "height", "brightness", "contrast", "sharpness")
    width, height, brightness, contrast, sharpness = (good[name].to_numpy() for name in columns)
    is_turned = good["is_turned"].to_numpy(zero_copy_only=False)
    short, long = np.minimum(width, height), np.maximum(width, height)
    is_dark, is_bright = brightness < config.dark_below, brightness > config.bright_above
    is_uniform = ~is_dark & ~is_bright & (contrast < config.uniform_below)
    is_blurred = ~is_dark & ~is_bright & ~is_uniform & (sharpness < config.blurred_below)

    def told(mask: np.ndarray, words: Callable[[int], str]) -> dict[int, str]:
        return {place: words(place) for place in np.flatnonzero(mask).tolist()}

    def size(place: int) -> str:
        return f"{width[place]} x {height[place]} pixels"

    def light(place: int) -> str:
        return f"mean brightness {brightness[place]:.1f} of 255"

    yield FindingCode.TINY, told(short < config.tiny_below, size)
    yield FindingCode.ODD_SHAPE, told(long > config.odd_shape_above * short, size)
    yield FindingCode.DARK, told(is_dark, light)
    yield FindingCode.BRIGHT, told(is_bright, light)
    yield FindingCode.UNIFORM, told(is_uniform, lambda place: f"standard deviation {contrast[place]:.1f} of 255")
    yield FindingCode.BLURRED, told(is_blurred, lambda place: f"variance of the Laplacian {sharpness[place]:.1f}")
    yield FindingCode.ROTATED, told(is_turned, lambda _place: "EXIF says how to turn it")
