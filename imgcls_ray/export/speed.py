"""How fast a network and its export are on this processor: images/s of one thread, measured in turns."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from imgcls_ray.machine import has_fast_int8
from imgcls_ray.models.engines.load import load_engine

if TYPE_CHECKING:
    from imgcls_ray.models.engines.load import Engine
    from imgcls_ray.models.folder import ModelFolder

_NUM_TURNS = 7
_TURN_S = 0.4
_BATCH_SIZE = 16


class Speed(TypedDict):
    """Of the forward pass alone, each network in the precision that ``imgcls predict`` takes by default."""

    before: float
    """Images/s of the original, the median of the turns."""
    after: float
    ratio: float
    """Median of the turns' own ratios, after by before: what slows the machine for a while slows both."""
    num_threads: int
    batch_size: int
    precision_before: str
    precision_after: str
    fast_int8: bool | None
    """Whether the processor has instructions for 8 bits; ``None`` where that is not known."""


def measure_speed(original: ModelFolder, exported: ModelFolder) -> Speed:
    """Let both networks run in turns on the same pixels, each with one thread, as in a worker of a bulk run."""
    size = original.spec.preprocess.crop_size
    pixels = np.random.default_rng(0).integers(0, 256, (_BATCH_SIZE, size, size, 3), dtype=np.uint8)
    before, after = (load_engine(folder, batch_size=_BATCH_SIZE, num_threads=1) for folder in (original, exported))
    for engine in (before, after):
        engine(pixels)
    turns = [(_images_per_s(before, pixels), _images_per_s(after, pixels)) for _ in range(_NUM_TURNS)]
    return {
        "before": statistics.median(turn[0] for turn in turns),
        "after": statistics.median(turn[1] for turn in turns),
        "ratio": statistics.median(turn[1] / turn[0] for turn in turns),
        "num_threads": 1,
        "batch_size": _BATCH_SIZE,
        "precision_before": before.precision,
        "precision_after": after.precision,
        "fast_int8": has_fast_int8(),
    }


def _images_per_s(engine: Engine, pixels: np.ndarray) -> float:
    num_images, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < _TURN_S or not num_images:
        engine(pixels)
        num_images += len(pixels)
    return num_images / seconds
