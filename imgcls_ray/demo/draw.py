"""Draw a small labelled data set of shapes, and a folder of new images to label.

The folder to label is what uploads look like: several formats, a turned photo, grey, alpha, and broken files, each
with the error code it must cost. The same arguments give the same files, byte for byte, on one Pillow version: every
image draws from a random stream of its own, so it does not depend on how many others are drawn.
"""

from __future__ import annotations

import colorsys
import io
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFilter

from imgcls_ray.errors import ImageErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLASS_NAMES = ("circle", "cross", "ring", "square", "star", "triangle")
"""Sorted, so that an index into it is also the index that an image-folder reader gives."""

_SUPERSAMPLING = 3  # shapes are drawn larger and reduced: Pillow draws polygons without antialiasing
_TRAIN, _TO_LABEL, _BROKEN = 0, 1, 2  # which random streams an image is drawn from: no picture is in both folders

Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class DemoDataset:
    """What ``draw_dataset`` wrote."""

    class_names: tuple[str, ...]
    """In the order of the class ids."""
    train: Path
    """``NAME/NAME_0000.jpg`` and so on, a folder per class."""
    to_label: Path
    """One flat folder: new images, whose file names begin with their class, and the broken files."""
    labels: dict[str, str]
    """File name in ``to_label`` to class name, the broken files left out."""
    broken: dict[str, ImageErrorCode]
    """File name in ``to_label`` to the error it must cost."""


def draw_dataset(
    folder: Path, *, images_per_class: int, to_label_per_class: int = 8, size: int = 96, seed: int = 0
) -> DemoDataset:
    """Write the data set under ``folder``.

    Args:
        folder: is made if it is not there; ``train/`` and ``to_label/`` must not exist in it.
        images_per_class: in ``train/``.
        to_label_per_class: in ``to_label/``; 8 are enough for every format to occur.
        size: side of the square pictures, in pixels.
        seed: another seed gives other pictures.

    Raises:
        FileExistsError: ``train/`` or ``to_label/`` is there already: images of an earlier draw would mix in.
    """
    train, to_label = folder / "train", folder / "to_label"
    for new_folder in (train, to_label):
        new_folder.mkdir(parents=True)
    for class_id, name in enumerate(CLASS_NAMES):
        (train / name).mkdir()
        for index in range(images_per_class):
            picture = draw_shape(name, size=size, seed=(seed, _TRAIN, class_id, index))
            (train / name / f"{name}_{index:04}.jpg").write_bytes(_encode(picture, "JPEG"))
    labels = {}
    for class_id, name in enumerate(CLASS_NAMES):
        for index in range(to_label_per_class):
            picture = draw_shape(name, size=size, seed=(seed, _TO_LABEL, class_id, index))
            # The class shifts the turn, or each format would show one class only when few images are asked for.
            suffix, content = _as_uploaded(picture, turn=index + class_id)
            file_name = f"{name}_{index:04}{suffix}"
            (to_label / file_name).write_bytes(content)
            labels[file_name] = name
    broken = {}
    for file_name, content, code in _broken_files(size=size, seed=seed):
        (to_label / file_name).write_bytes(content)
        broken[file_name] = code
    return DemoDataset(CLASS_NAMES, train, to_label, labels, broken)


def draw_shape(name: str, *, size: int, seed: tuple[int, ...]) -> Image.Image:
    """One RGB picture of ``size`` by ``size`` pixels: a shape of any colour, turn, size and place on a busy ground."""
    rng = np.random.default_rng(seed)
    side = size * _SUPERSAMPLING
    look = _random_look(rng)
    picture = _ground(rng, side, look.ground, look.ground_end)
    mask = _shape_mask(name, rng, side)
    shadow = mask.filter(ImageFilter.GaussianBlur(side / 40)).point(lambda value: value * 0.45)
    picture.paste((0, 0, 0), (side // 60, side // 40), shadow)
    picture.paste(_gradient(rng, side, look.shape, look.shape_end), (0, 0), mask)
    return _add_noise(rng, picture.resize((size, size), Image.Resampling.LANCZOS))


class _Look(NamedTuple):
    """Ends of the two colour gradients."""

    ground: Colour
    ground_end: Colour
    shape: Colour
    shape_end: Colour


def _random_look(rng: np.random.Generator) -> _Look:
    """Colours whose lightness always differs, so that the shape is there for a colour-blind reader and a grey file."""
    hue = rng.uniform()
    # A picture in four has hardly any colour, so that grey uploads are nothing new to the model.
    saturation = rng.uniform(0.45, 0.8) if rng.uniform() < 0.75 else rng.uniform(0, 0.08)
    dark, light = rng.uniform(0.13, 0.32), rng.uniform(0.62, 0.86)
    ground, shape = (dark, light) if rng.uniform() < 0.5 else (light, dark)
    shape_hue = hue + rng.uniform(0.3, 0.7)
    return _Look(
        ground=_colour(hue, ground, saturation * 0.7),
        ground_end=_colour(hue + rng.uniform(-0.1, 0.1), ground + rng.uniform(-0.1, 0.1), saturation * 0.7),
        shape=_colour(shape_hue, shape, saturation),
        shape_end=_colour(shape_hue + rng.uniform(-0.06, 0.06), shape + rng.uniform(-0.1, 0.1), saturation),
    )


def _colour(hue: float, lightness: float, saturation: float) -> Colour:
    red, green, blue = colorsys.hls_to_rgb(hue % 1, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def _gradient(rng: np.random.Generator, side: int, start: Colour, end: Colour) -> Image.Image:
    angle = rng.uniform(0, 2 * math.pi)
    across = np.linspace(-0.5, 0.5, 32)
    ramp = np.clip(0.5 + math.cos(angle) * across[None, :] + math.sin(angle) * across[:, None], 0, 1)[..., None]
    small = np.round(np.asarray(start) * (1 - ramp) + np.asarray(end) * ramp).astype(np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def _ground(rng: np.random.Generator, side: int, start: Colour, end: Colour) -> Image.Image:
    """A gradient with soft blobs and, half the time, thin lines: edges alone do not give the class away."""
    ground = _gradient(rng, side, start, end)
    marks = Image.new("L", (side, side))
    draw = ImageDraw.Draw(marks)
    for _ in range(rng.integers(2, 6)):
        x, y = rng.uniform(0, side, 2)
        radius = rng.uniform(0.04, 0.2) * side
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(rng.integers(25, 70)))
    marks = marks.filter(ImageFilter.GaussianBlur(side / 30))
    if rng.uniform() < 0.5:
        draw = ImageDraw.Draw(marks)
        for _ in range(rng.integers(2, 7)):
            ends = rng.uniform(0, side, 4)
            draw.line([float(value) for value in ends], fill=int(rng.integers(40, 110)), width=max(1, side // 140))
    tint = (255, 255, 255) if rng.uniform() < 0.5 else (0, 0, 0)
    ground.paste(tint, (0, 0, side, side), marks)
    return ground


def _shape_mask(name: str, rng: np.random.Generator, side: int) -> Image.Image:
    """Grey (L) picture, 255 inside the shape."""
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    radius = rng.uniform(0.27, 0.42) * side
    centre_x, centre_y = side / 2 + rng.uniform(-0.07, 0.07, 2) * side
    turn = math.radians(rng.uniform(-25, 25))
    # Of the round shapes, only the ring has a hole: a hollow circle would be a ring.
    holes = {"circle": 0.0, "ring": rng.uniform(0.5, 0.7)}
    hole = holes.get(name, rng.uniform(0.4, 0.6) if rng.uniform() < 0.2 else 0.0)
    outline = _unit_outline(name)
    # Every outline is seen whole from its centre, so the same outline made smaller lies inside it.
    for scale, fill in ((radius, 255), (radius * hole, 0)):
        cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
        if scale > 0:
            draw.polygon([(centre_x + x * cos - y * sin, centre_y + x * sin + y * cos) for x, y in outline], fill=fill)
    return mask


def _unit_outline(name: str) -> list[Point]:
    """Corners of the upright shape around (0, 0), none further away than 1; y points down."""
    if name == "square":
        return _corners(4, offset=0.5)
    if name == "triangle":
        return _corners(3)
    if name == "star":
        return [point for pair in zip(_corners(5), _corners(5, 0.42, 0.5), strict=True) for point in pair]
    if name == "cross":
        arm, end = 0.3, 0.95
        return [(end, -arm), (end, arm), (arm, arm), (arm, end), (-arm, end), (-arm, arm),
                (-end, arm), (-end, -arm), (-arm, -arm), (-arm, -end), (arm, -end), (arm, -arm)]  # fmt: skip
    return _corners(120)


def _corners(count: int, radius: float = 1.0, offset: float = 0.0) -> list[Point]:
    """``count`` points on a circle, the first on top; ``offset`` turns them by that part of their distance."""
    angles = [2 * math.pi * (index + offset) / count - math.pi / 2 for index in range(count)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _add_noise(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float32)
    noise = rng.normal(0, rng.uniform(1, 9), pixels.shape)
    return Image.fromarray(np.clip(np.round(pixels + noise), 0, 255).astype(np.uint8))


def _as_uploaded(picture: Image.Image, *, turn: int) -> tuple[str, bytes]:
    """(suffix, content): of eight turns, three are plain JPEG and five are other things people upload."""
    match turn % 8:
        case 1:
            return ".png", _encode(picture, "PNG")
        case 2:
            return ".webp", _encode(picture, "WEBP")
        case 3:
            # Orientation 6: the camera lay on its side, and the viewer has to turn the picture by 90 degrees.
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = 6
            return ".jpg", _encode(picture.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
        case 4:
            return ".jpg", _encode(picture.convert("L"), "JPEG")
        case 5:
            return ".png", _encode(_with_round_corners(picture), "PNG")
        case _:
            return ".jpg", _encode(picture, "JPEG")


def _with_round_corners(picture: Image.Image) -> Image.Image:
    """RGBA with transparent corners: outside the shape, so that the class stays whatever is put behind them."""
    alpha = Image.new("L", picture.size)
    ImageDraw.Draw(alpha).rounded_rectangle((0, 0, picture.width - 1, picture.height - 1), picture.width // 6, fill=255)
    picture = picture.copy()
    picture.putalpha(alpha)
    return picture


def _encode(picture: Image.Image, image_format: str, *, exif: Image.Exif | None = None) -> bytes:
    buffer = io.BytesIO()
    match image_format:
        case "JPEG":
            picture.save(buffer, "JPEG", quality=90, exif=exif or b"")
        case "WEBP":
            picture.save(buffer, "WEBP", quality=88)
        case _:
            picture.save(buffer, image_format)
    return buffer.getvalue()


def _broken_files(*, size: int, seed: int) -> Iterator[tuple[str, bytes, ImageErrorCode]]:
    """(file name, content, the error it must cost) of one file for each thing that goes wrong in real uploads."""
    whole = _encode(draw_shape("star", size=size, seed=(seed, _BROKEN)), "JPEG")
    yield "empty.jpg", b"", ImageErrorCode.EMPTY
    yield "half_uploaded.jpg", whole[: len(whole) // 2], ImageErrorCode.TRUNCATED
    yield "notes.jpg", b"Photos of the second shift, see folder B.\n", ImageErrorCode.UNSUPPORTED_FORMAT
    yield "claims_60000x60000.jpg", _with_claimed_side(whole, 60_000), ImageErrorCode.TOO_MANY_PIXELS
    yield "web_page.jpg", _NOT_FOUND_PAGE, ImageErrorCode.UNSUPPORTED_FORMAT


def _with_claimed_side(jpeg: bytes, side: int) -> bytes:
    """The same file with ``side`` by ``side`` pixels in its frame header: little to store, gigabytes to decode."""
    # Marker SOF0, length (17 for three components), bits per sample (8), then height and width.
    height_at = jpeg.index(b"\xff\xc0\x00\x11\x08") + 5
    return jpeg[:height_at] + struct.pack(">HH", side, side) + jpeg[height_at + 4 :]


_NOT_FOUND_PAGE = b"""<!DOCTYPE html>
<html><head><title>404 Not Found</title></head>
<body><h1>Not Found</h1><p>The requested image was not found on this server.</p></body></html>
"""
