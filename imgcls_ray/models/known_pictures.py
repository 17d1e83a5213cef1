"""Pictures that are the same everywhere: what a network says of them shows whether an engine runs that network."""

from __future__ import annotations

import hashlib

import numpy as np

NUM_BUNDLED = 2
"""Pictures whose logits in float32 lie in a model folder with its converted network."""
MAX_DIFFERENCE = 0.5
"""Between an engine and float32 arithmetic. bf16 costs trained networks one or two percent; of two networks that have
nothing to do with each other the logits differ by more than 100."""
_NUM_PATCHES = 8


def known_pictures(count: int, size: int) -> np.ndarray:
    """Patterns in all colours, the same every time: uint8 (count, size, size, 3).

    Logits of them are kept for years, so the patterns come from a hash: NumPy's generators may change.
    """
    num_values = _NUM_PATCHES * _NUM_PATCHES * 3
    values = b"".join(hashlib.shake_128(b"picture %d" % i).digest(num_values) for i in range(count))
    coarse = np.frombuffer(values, np.uint8).reshape(count, _NUM_PATCHES, _NUM_PATCHES, 3)
    repeats = -(-size // _NUM_PATCHES)
    return np.ascontiguousarray(coarse.repeat(repeats, axis=1).repeat(repeats, axis=2)[:, :size, :size])


def logits_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of any row, relative to how far the expected logits are from their mean.

    So it does not matter how large the logits are.

    Args:
        found: float32 (B, num_classes), of an engine.
        expected: the same, in float32 arithmetic.

    Returns:
        0 for equal logits; not a number if one of them is none.

    Raises:
        ValueError: they are of another number of pictures or classes.
    """
    if found.shape != expected.shape:
        raise ValueError(f"logits of shape {found.shape}, expected {expected.shape}")
    centred = expected - expected.mean(axis=1, keepdims=True)
    off = found - expected
    off -= off.mean(axis=1, keepdims=True)
    size = np.linalg.norm(centred, axis=1) + np.finfo(np.float32).tiny
    return float((np.linalg.norm(off, axis=1) / size).max())
