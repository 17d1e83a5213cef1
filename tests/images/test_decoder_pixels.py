"""The fast and the careful decoder see the same picture, the right way up."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageOps

from imgcls_ray.errors import ImageError
from imgcls_ray.images.decoder import DecodeLimits, decode_careful, decode_image, decode_picture
from imgcls_ray.images.fast_jpeg import decode_jpeg_fast
from imgcls_ray.images.jpeg import read_jpeg_header
from imgcls_ray.images.orientation import read_orientation, turn_upright
from tests.images import bad_images as make

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")

# simplejpeg and Pillow carry their own builds of libjpeg-turbo. Equal today; a build with another way of upsampling
# colours may differ by this much and no more.
MAX_DIFFERENCE = 3
MAX_MEAN_DIFFERENCE = 0.25


def texture(width: int, height: int) -> np.ndarray:
    """Slopes under noise, so that a decoder which smooths or shifts anything shows."""
    noise = np.random.default_rng(7).integers(-40, 41, (height, width, 3))
    return np.clip(make.slopes(width, height).astype(int) + noise, 0, 255).astype(np.uint8)


def jpeg(width: int, height: int, *, mode: str | None = None, sampling: int | None = None, **options: object) -> bytes:
    encoded = make.jpeg(texture(width, height), mode, **options)
    return make.set_luma_sampling(encoded, sampling) if sampling is not None else encoded


def oriented_jpeg(orientation: int) -> bytes:
    return make.insert_segments(jpeg(61, 43), make.app1_exif(make.exif(orientation)))


JPEGS: dict[str, Callable[[], bytes]] = {
    "4:4:4": lambda: jpeg(160, 120, subsampling="4:4:4"),
    "4:2:2": lambda: jpeg(160, 120, subsampling="4:2:2"),
    "4:2:0": lambda: jpeg(160, 120, subsampling="4:2:0"),
    "4:1:1": lambda: jpeg(160, 96, subsampling="4:2:0", sampling=0x41),
    "4:4:0": lambda: jpeg(160, 96, subsampling="4:2:2", sampling=0x12),
    "grey": lambda: jpeg(160, 120, mode="L"),
    "rgb-without-ycc": lambda: jpeg(160, 120, keep_rgb=True),
    "progressive": lambda: jpeg(160, 120, progressive=True),
    "progressive-grey": lambda: jpeg(161, 117, mode="L", progressive=True),
    "restart-markers": lambda: jpeg(160, 120, restart_marker_rows=1),
    "quality-10": lambda: jpeg(160, 120, quality=10),
    "odd-4:2:0": lambda: jpeg(33, 17, subsampling="4:2:0"),
    "odd-4:2:2": lambda: jpeg(17, 33, subsampling="4:2:2"),
    "1x1": lambda: jpeg(1, 1),
    "3x1000": lambda: jpeg(3, 1000, subsampling="4:2:0"),
    **{f"orientation-{orientation}": partial(oriented_jpeg, orientation) for orientation in range(1, 9)},
}


@pytest.mark.parametrize("make_jpeg", JPEGS.values(), ids=JPEGS)
def test_both_ways_agree(make_jpeg: Callable[[], bytes]) -> None:
    encoded = make_jpeg()
    header = read_jpeg_header(encoded)
    assert header.is_fast
    difference = np.abs(decode_jpeg_fast(encoded, header).astype(int) - decode_careful(encoded))
    assert difference.max() <= MAX_DIFFERENCE
    assert difference.mean() <= MAX_MEAN_DIFFERENCE


def test_an_ordinary_jpeg_never_meets_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgcls_ray.images.decoder.decode_with_pillow", pytest.fail)
    assert decode_image(make.jpeg()).shape == (16, 24, 3)


def tagged(image_format: str, orientation: int, order: str) -> bytes:
    stored = make.slopes(40, 24)
    if image_format == "JPEG":
        return make.insert_segments(make.jpeg(stored, subsampling=0), make.app1_exif(make.exif(orientation, order)))
    if image_format == "TIFF":
        return make.encode(stored, "TIFF", tiffinfo={0x0112: orientation})
    # Lossless matters for WebP only; PNG knows no such option and does not mind.
    return make.encode(stored, image_format, exif=make.exif(orientation, order), lossless=True)


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """What Pillow's own transposition makes of it."""
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("image_format", "tolerance"), [("JPEG", 12), ("PNG", 0), ("WEBP", 0), ("TIFF", 0)])
def test_every_format_comes_upright(image_format: str, tolerance: int, orientation: int, order: str) -> None:
    """Case 41."""
    pixels = decode_image(tagged(image_format, orientation, order))
    expected = upright(make.slopes(40, 24), orientation)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance


def test_the_reference_itself_turns_a_known_corner() -> None:
    """A camera held upright writes 6: what it stored in the left bottom corner belongs into the left top one."""
    stored = np.zeros((2, 3, 3), dtype=np.uint8)
    stored[1, 0] = 255
    turned = turn_upright(stored, 6)
    assert turned.shape == (3, 2, 3)
    assert turned[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(turned, upright(stored, 6))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "jpeg"])
def test_compressed_tiffs_come_upright_once(compression: str) -> None:
    file = io.BytesIO()
    Image.fromarray(make.slopes(40, 24)).save(file, "TIFF", compression=compression, tiffinfo={0x0112: 6})
    expected = upright(make.slopes(40, 24), 6)
    assert np.abs(decode_image(file.getvalue()).astype(int) - expected).max() <= 24


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_orientations_that_do_not_exist_are_ignored(orientation: int) -> None:
    """Case 42."""
    plain = decode_image(make.jpeg())
    tagged = decode_image(make.insert_segments(make.jpeg(), make.app1_exif(make.exif(orientation))))
    np.testing.assert_array_equal(tagged, plain)


def test_the_orientation_is_read_where_the_count_of_tags_is_damaged() -> None:
    block = make.overwrite(make.exif(6), 8, b"\xff\xff")
    assert read_orientation(block) == 6


def test_a_pillow_image_is_read_under_the_same_rules() -> None:
    for encoded in (tagged("JPEG", 6, "<"), tagged("TIFF", 6, "<"), make.encode(make.slopes(), "PNG", "RGBA")):
        held = Image.open(io.BytesIO(encoded))
        np.testing.assert_array_equal(decode_picture(held), decode_careful(encoded))
    with pytest.raises(ImageError, match="Pillow mode F"):
        decode_picture(Image.new("F", (2, 2)))
    with pytest.raises(ImageError, match="2 x 2 pixels, the limit is 3"):
        decode_picture(Image.new("RGB", (2, 2)), DecodeLimits(max_pixels=3))
