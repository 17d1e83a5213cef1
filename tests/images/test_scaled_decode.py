"""Large JPEGs are decoded at a fraction of their size if the model says so: the same picture, nearly the same input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.decoder import DecodeLimits, decode_careful, decode_image, decode_scaled
from imgcls_ray.images.preprocess import Preprocess, preprocess_image
from imgcls_ray.models.classifier import ModelInput, decode_model_input
from tests.images import bad_images as make
from tests.images.test_decoder_pixels import MAX_DIFFERENCE, MAX_MEAN_DIFFERENCE, texture

if TYPE_CHECKING:
    from collections.abc import Callable

FULL = Preprocess(resize_size=16, crop_size=16)
SCALED = Preprocess(resize_size=16, crop_size=16, decode="scaled")
MIN_SIDE = SCALED.min_side
WIDTH, HEIGHT = 480, 320


def jpeg(width: int = WIDTH, height: int = HEIGHT, **options: object) -> bytes:
    return make.jpeg(texture(width, height), **{"subsampling": "4:2:0", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [
        (640, 1280, 8),
        (639, 1280, 1),
        (632, 1280, 4),
        (480, 320, 4),
        (480, 318, 2),
        (160, 160, 2),
        (158, 160, 1),
        # A picture that does not end with a block would be stretched.
        (481, 320, 1),
        (480, 322, 2),
        (484, 324, 4),
    ],
)
def test_the_smallest_scale_that_leaves_the_margin_is_taken(width: int, height: int, scale: int) -> None:
    assert MIN_SIDE == 80
    decoded = decode_scaled(make.jpeg(make.slopes(width, height)), min_side=MIN_SIDE)
    assert decoded.scale == scale
    assert decoded.pixels.shape == (height // scale, width // scale, 3)
    assert decoded.pixels.flags.c_contiguous
    assert decoded.pixels.flags.writeable


def test_without_a_side_every_picture_is_decoded_whole() -> None:
    assert FULL.min_side is None
    decoded = decode_scaled(jpeg(), min_side=None)
    np.testing.assert_array_equal(decoded.pixels, decode_image(jpeg()))


JPEGS: dict[str, Callable[[], bytes]] = {
    "4:2:0": jpeg,
    "4:2:2": lambda: jpeg(subsampling="4:2:2"),
    "4:4:4": lambda: jpeg(subsampling="4:4:4"),
    "grey": lambda: make.jpeg(texture(WIDTH, HEIGHT), "L"),
    "progressive": lambda: jpeg(progressive=True),
    "rgb-without-ycc": lambda: jpeg(subsampling="4:4:4", keep_rgb=True),
    "turned": lambda: make.insert_segments(jpeg(), make.app1_exif(make.exif(6))),
}


@pytest.mark.parametrize("make_jpeg", JPEGS.values(), ids=JPEGS)
def test_both_decoders_agree_at_a_fraction(make_jpeg: Callable[[], bytes]) -> None:
    decoded = decode_scaled(make_jpeg(), min_side=MIN_SIDE)
    careful = decode_careful(make_jpeg(), min_side=MIN_SIDE)
    assert decoded.scale == 4
    assert decoded.pixels.shape == careful.shape
    difference = np.abs(decoded.pixels.astype(int) - careful)
    assert difference.max() <= MAX_DIFFERENCE
    assert difference.mean() <= MAX_MEAN_DIFFERENCE


def test_what_only_the_careful_decoder_reads_is_decoded_at_a_fraction_too() -> None:
    decoded = decode_scaled(make.jpeg(texture(WIDTH, HEIGHT), "CMYK"), min_side=MIN_SIDE)
    whole = decode_image(make.jpeg(texture(WIDTH, HEIGHT), "CMYK"))
    assert decoded.scale == 4
    assert (decoded.width, decoded.height) == (WIDTH, HEIGHT)
    means = whole.reshape(HEIGHT // 4, 4, WIDTH // 4, 4, 3).mean(axis=(1, 3))
    assert np.abs(decoded.pixels - means).mean() < 2


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param(make.encode(make.slopes(WIDTH, HEIGHT), "PNG"), id="png"),
        pytest.param(make.lossless_jpeg(make.slopes(WIDTH, HEIGHT)[:, :, 0]), id="lossless-jpeg"),
    ],
)
def test_what_has_no_coefficients_is_decoded_whole(encoded: bytes) -> None:
    decoded = decode_scaled(encoded, min_side=MIN_SIDE)
    assert decoded.scale == 1
    np.testing.assert_array_equal(decoded.pixels, decode_image(encoded))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_picture_is_upright_and_has_its_true_size(orientation: int) -> None:
    encoded = make.insert_segments(jpeg(), make.app1_exif(make.exif(orientation)))
    upright = decode_image(encoded)
    decoded = decode_scaled(encoded, min_side=MIN_SIDE)
    assert (decoded.height, decoded.width) == upright.shape[:2]
    means = upright.reshape(decoded.height // 4, 4, decoded.width // 4, 4, 3).mean(axis=(1, 3))
    assert np.abs(decoded.pixels - means).mean() < 2


def test_the_models_input_is_nearly_the_same_and_the_size_is_the_files() -> None:
    encoded = jpeg(1280, 960, quality=95)
    inputs = [decode_model_input(encoded, preprocess, DecodeLimits()) for preprocess in (FULL, SCALED)]
    full, scaled = inputs
    assert isinstance(full, ModelInput)
    assert isinstance(scaled, ModelInput)
    assert (scaled.width, scaled.height) == (full.width, full.height) == (1280, 960)
    difference = np.abs(full.pixels.astype(int) - scaled.pixels)
    assert 0 < difference.mean() <= 0.3


def test_a_picture_that_is_not_large_gives_the_same_input() -> None:
    encoded = jpeg(200, 150)
    decoded = decode_scaled(encoded, min_side=MIN_SIDE)
    np.testing.assert_array_equal(
        preprocess_image(decoded.pixels, SCALED), preprocess_image(decode_image(encoded), FULL)
    )


def test_limits_count_the_pixels_of_the_file() -> None:
    with pytest.raises(ImageError) as raised:
        decode_scaled(jpeg(), DecodeLimits(max_pixels=WIDTH * HEIGHT - 1), min_side=MIN_SIDE)
    assert raised.value.code is ImageErrorCode.TOO_MANY_PIXELS


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_cut_file_is_refused_at_a_fraction_too(share: float) -> None:
    encoded = jpeg()
    with pytest.raises(ImageError) as raised:
        decode_scaled(encoded[: int(len(encoded) * share)], min_side=MIN_SIDE)
    assert raised.value.code is ImageErrorCode.TRUNCATED


def test_damage_that_only_the_careful_decoder_reads_gives_the_same_size() -> None:
    encoded = jpeg(restart_marker_blocks=4)
    damaged = encoded.replace(b"\xff\xd3", b"\xff\xd6")
    assert damaged != encoded
    assert decode_scaled(damaged, min_side=MIN_SIDE).pixels.shape == (HEIGHT // 4, WIDTH // 4, 3)
