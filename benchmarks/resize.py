"""Compare resize kernels with torch's antialiased one, whose pixels every model folder was made with: time and pixels.

python -m benchmarks.resize [--interpolation bicubic]
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from PIL import Image

from imgcls_ray.images.preprocess import Preprocess, preprocess_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.images.resize import Interpolation

_SIZES = ((100, 100), (375, 500), (750, 1000), (1500, 2000), (3000, 4000))
_RESIZE, _CROP = 256, 224
_TURNS = 7
_PIXELS_PER_TURN = 6_000_000


def with_torch(pixels: np.ndarray, interpolation: Interpolation) -> np.ndarray:
    """All of the picture; then the crop."""
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    size = _shape_of(pixels)
    resized = torch.nn.functional.interpolate(image, size=size, mode=interpolation, antialias=True)
    return _crop(resized[0].permute(1, 2, 0).numpy())


def with_pillow(pixels: np.ndarray, interpolation: Interpolation) -> np.ndarray:
    """All of the picture; then the crop."""
    height, width = _shape_of(pixels)
    kernel = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    return _crop(np.asarray(Image.fromarray(pixels).resize((width, height), kernel)))


def ours(pixels: np.ndarray, interpolation: Interpolation) -> np.ndarray:
    """As every job resizes."""
    return preprocess_image(pixels, Preprocess(_RESIZE, _CROP, interpolation))


def _shape_of(pixels: np.ndarray) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    return (_RESIZE, int(_RESIZE * width / height)) if height <= width else (int(_RESIZE * height / width), _RESIZE)


def _crop(pixels: np.ndarray) -> np.ndarray:
    top, left = (round((length - _CROP) / 2.0) for length in pixels.shape[:2])
    return pixels[top : top + _CROP, left : left + _CROP]


def _cpu_ms(resize: Callable[[], object], num_pixels: int) -> float:
    number = max(1, _PIXELS_PER_TURN // num_pixels)
    start = time.process_time()
    for _ in range(number):
        resize()
    return 1000 * (time.process_time() - start) / number


def main() -> None:
    """Print a table: best CPU time of several turns, and which share of the samples differs from torch's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear")
    interpolation = cast("Interpolation", parser.parse_args().interpolation)
    torch.set_num_threads(1)
    kernels = {"torch": with_torch, "ours": ours, "Pillow": with_pillow}
    print(f"{'kernel':8} {'picture':>12} {'CPU ms':>8} {'differ':>8} {'by':>4}")
    for height, width in _SIZES:
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = with_torch(pixels, interpolation).astype(np.int16)
        times: dict[str, list[float]] = {name: [] for name in kernels}
        for _ in range(_TURNS):
            for name, kernel in kernels.items():
                times[name].append(_cpu_ms(partial(kernel, pixels, interpolation), height * width))
        for name, kernel in kernels.items():
            difference = np.abs(kernel(pixels, interpolation) - expected)
            share, most = (difference > 0).mean(), difference.max()
            print(f"{name:8} {width:>5} x {height:<4} {min(times[name]):8.2f} {share:8.2%} {most:4}")


if __name__ == "__main__":
    main()
