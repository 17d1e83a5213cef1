"""Make N distinct JPEG files of natural size: the common input of a comparison.

From a folder of photographs they are seeded crops, re-encoded. Without one they are drawn: gradients, objects with soft
edges, and texture whose amplitude falls with its frequency, as in photographs, so that decoding costs about the same.
The same arguments give the same files on one Pillow version.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.common import available_cores, emit, list_images

if TYPE_CHECKING:
    from collections.abc import Sequence

_QUALITY = 95
# Width and height of common ImageNet photographs; 500 x 375 is by far the most frequent.
_SIZES = ((500, 375), (500, 375), (500, 375), (375, 500), (500, 333), (333, 500), (500, 400), (480, 360), (600, 450))


def draw_photograph(seed: int) -> Image.Image:
    """One RGB picture of about 500 x 375 pixels."""
    rng = np.random.default_rng(seed)
    size = _SIZES[rng.integers(len(_SIZES))]
    # How busy pictures are differs widely, and with it their bytes: most are calm, some are foliage.
    busyness = float(np.clip(rng.lognormal(0, 0.5), 0.2, 2.5))
    texture = _noise(rng, size, octaves=8) * (150 * busyness)
    pixels = _surface(rng, size, texture)
    for _ in range(rng.integers(2, 7)):
        mask = _object_mask(rng, size)
        # Turned by half a circle, the one texture is another one for the eye and for the encoder.
        pixels += (_surface(rng, size, texture[::-1, ::-1]) - pixels) * mask[..., None]
    grain = rng.standard_normal(pixels.shape[:2], dtype=np.float32) * (9 * busyness)
    return Image.fromarray(np.clip(pixels + grain[..., None], 0, 255).astype(np.uint8))


def _surface(rng: np.random.Generator, size: tuple[int, int], texture: np.ndarray) -> np.ndarray:
    """A gradient of two colours with more or less of the texture in it: float32 (height, width, 3)."""
    # Colours of the world are mostly greyish: brightness differs more than hue.
    brightness, hue = rng.integers(40, 190, (3, 3, 1)), rng.integers(-25, 65, 3)
    colours = np.clip(brightness + hue + rng.integers(-15, 16, (3, 3, 3)), 0, 255).astype(np.uint8)
    gradient = Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)
    strength = (rng.uniform(0.3, 1.3) * rng.uniform(0.7, 1.0, 3)).astype(np.float32)
    surface: np.ndarray = np.asarray(gradient, dtype=np.float32) + texture[..., None] * strength
    return surface


def _noise(rng: np.random.Generator, size: tuple[int, int], *, octaves: int) -> np.ndarray:
    """Noise whose amplitude falls with its frequency, about -1 to 1: float32 (height, width)."""
    width, height = size
    total = np.zeros((height, width), dtype=np.float32)
    for octave in range(octaves):
        across = min(2 << octave, width)
        grid = rng.uniform(-1, 1, (across * height // width + 1, across)).astype(np.float32)
        total += np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)) * 0.84**octave
    return total / 3


def _object_mask(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """float32 (height, width), 1 inside an ellipse or a polygon whose edge is more or less in focus."""
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    centre = rng.uniform(0, 1, 2) * size
    radii = rng.uniform(0.05, 0.35, 2) * size[0]
    if rng.uniform() < 0.5:
        draw.ellipse((*(centre - radii), *(centre + radii)), fill=255)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        corners = centre + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        draw.polygon([(float(x), float(y)) for x, y in corners], fill=255)
    blurred = mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 3))))
    return np.asarray(blurred, dtype=np.float32) / 255


def crop_photograph(path: Path, seed: int) -> Image.Image:
    """A crop of nine tenths of each side, of one photograph."""
    rng = np.random.default_rng(seed)
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    cut_x, cut_y = image.width // 10, image.height // 10
    left, top = int(rng.integers(cut_x + 1)), int(rng.integers(cut_y + 1))
    return image.crop((left, top, left + image.width - cut_x, top + image.height - cut_y))


def _write_image(folder: Path, photographs: Sequence[Path], i: int) -> tuple[int, int]:
    """Write one file; returns its bytes and its pixels."""
    image = crop_photograph(photographs[i % len(photographs)], i) if photographs else draw_photograph(i)
    path = folder / f"{i:06d}.jpg"
    image.save(path, quality=_QUALITY)
    return path.stat().st_size, image.width * image.height


def make_images(output: Path, count: int, *, source: Path | None = None) -> tuple[float, float]:
    """Write the files; the folder is there whole or not at all.

    Returns:
        Mean bytes and mean pixels of a file.

    Raises:
        FileExistsError: the folder is there already.
    """
    if output.exists():
        raise FileExistsError(f"{output}: already exists; remove it or give another folder")
    photographs = list_images(source) if source else []
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        with ProcessPoolExecutor(available_cores()) as executor:
            write = functools.partial(_write_image, partial, photographs)
            written = list(executor.map(write, range(count), chunksize=16))
        partial.chmod(0o755)
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    mean_bytes, mean_pixels = np.mean(written, axis=0)
    return float(mean_bytes), float(mean_pixels)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.make_images", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("output", type=Path, metavar="DIR", help="folder to make; must not exist")
    parser.add_argument("-n", "--count", type=int, default=5000, help="[default: 5000]")
    parser.add_argument("--source", type=Path, help="folder of JPEG photographs to crop [default: draw]")
    args = parser.parse_args()
    try:
        mean_bytes, mean_pixels = make_images(args.output, args.count, source=args.source)
    except FileExistsError as error:
        parser.error(str(error))
    source = str(args.source) if args.source else "drawn"
    emit("images", "mean_size", mean_bytes / 1000, "kB", megapixels=round(mean_pixels / 1e6, 3), source=source)


if __name__ == "__main__":
    main()
