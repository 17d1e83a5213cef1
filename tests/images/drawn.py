"""Draw small pictures, and say what a file of one holds: planes of samples and what they mean."""

from __future__ import annotations

import struct
from typing import Any, Literal, NamedTuple

import numpy as np

Rng = np.random.Generator


class Planes(NamedTuple):
    """The samples of a picture as they are stored, and what they mean."""

    samples: np.ndarray
    """Unsigned integers (H, W, C), alpha last."""
    white: int = 255
    """The largest value that a sample can have."""
    colours: Literal["grey", "rgb", "cmyk"] = "rgb"
    alpha: Literal["none", "straight", "premultiplied"] = "none"
    is_inverted: bool = False
    """Whether the largest value is black."""


class GeneratedFile(NamedTuple):
    format: str
    name: str
    """What kind of the format, for people."""
    data: bytes
    planes: Planes
    orientation: int = 1


def upright_rgb(file: GeneratedFile) -> np.ndarray:
    """What the policy of this package makes of the planes: float (H, W, 3), 0 to 255."""
    planes = file.planes
    samples = planes.samples.astype(np.float64) / planes.white
    alpha = np.ones((*samples.shape[:2], 1))
    if planes.alpha != "none":
        samples, alpha = samples[:, :, :-1], samples[:, :, -1:]
    if planes.is_inverted:
        samples = 1 - samples
    if planes.colours == "cmyk":
        samples = (1 - samples[:, :, :3]) * (1 - samples[:, :, 3:4])
    elif planes.colours == "grey":
        samples = np.repeat(samples[:, :, :1], 3, axis=2)
    rgb = samples[:, :, :3] * (1 if planes.alpha == "premultiplied" else alpha) + (1 - alpha)
    return turn(np.clip(rgb, 0, 1) * 255, file.orientation)


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    quarters = {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(orientation, 0)
    turned: np.ndarray = np.rot90(pixels, quarters)
    return turned[:, ::-1] if orientation in (2, 4, 5, 7) else turned


def draw_picture(rng: Rng, *, is_smooth: bool, num_channels: int, white: int = 255) -> np.ndarray:
    """Unsigned integers (H, W, C). A smooth one survives lossy coding and the ways to enlarge colours."""
    height, width = (int(side) for side in rng.integers(1, 70, 2))
    if is_smooth:
        height, width = 8 * (height // 8 + 2), 8 * (width // 8 + 2)
    y, x = np.mgrid[0:height, 0:width]
    channels = []
    for _ in range(num_channels):
        slope_y, slope_x, start = rng.uniform(-1, 1, 3) * (0.25, 0.25, 0.2)
        channels.append(0.5 + start + slope_y * (y / height - 0.5) + slope_x * (x / width - 0.5))
    values = np.dstack(channels)
    if not is_smooth:
        values = values + rng.uniform(-0.3, 0.3, values.shape)
        # Black and white, and alpha of nothing and of all, are where readers differ.
        values = np.where(rng.random(values.shape) < 0.1, rng.integers(0, 2, values.shape), values)
    samples: np.ndarray = np.rint(np.clip(values, 0, 1) * white).astype(np.uint16 if white > 255 else np.uint8)
    return samples


def choose(rng: Rng, *choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def draw_orientation(rng: Rng) -> int:
    return int(rng.integers(1, 9))


def encode_orientation(rng: Rng, orientation: int) -> bytes:
    """One orientation, in any integer type and byte order."""
    order, (kind, code) = choose(rng, "<", ">"), choose(rng, (1, "B"), (3, "H"), (4, "I"), (8, "h"), (9, "i"))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 1)
    value = struct.pack(order + code, orientation).ljust(4, b"\0")
    return head + struct.pack(order + "HHI", 0x0112, kind, 1) + value + bytes(4)


def pack_bits(rows: np.ndarray, depth: int) -> np.ndarray:
    """Samples of 1, 2 or 4 bits, the first in the highest bits, each row in bytes of its own."""
    bits = (rows[:, :, np.newaxis] >> np.arange(depth)[::-1]) & 1
    return np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1)
