"""Resizing and cropping: torchvision's own result to the pixel, at any shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from imgcls_ray.images.preprocess import Preprocess, preprocess_image


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "shape", [(375, 500), (500, 375), (224, 224), (256, 256), (100, 90), (301, 257), (256, 400), (33, 17)]
)
def test_pixels_equal_torchvisions(shape: tuple[int, int], interpolation: str) -> None:
    pixels = noise(*shape)
    preprocess = Preprocess(resize_size=256, crop_size=224, interpolation=interpolation)  # type: ignore[arg-type]
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    mode = F.InterpolationMode(interpolation)
    expected = F.center_crop(F.resize(image, [256], interpolation=mode, antialias=True), [224, 224])
    assert np.array_equal(preprocess_image(pixels, preprocess), expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (384, 384), (33, 17)])
def test_squashed_pixels_equal_torchvisions(shape: tuple[int, int]) -> None:
    pixels = noise(*shape)
    preprocess = Preprocess(resize_size=256, crop_size=224, interpolation="bicubic", crop_mode="squash")
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    resized = F.resize(image, [256, 256], interpolation=F.InterpolationMode.BICUBIC, antialias=True)
    expected = F.center_crop(resized, [224, 224])
    assert np.array_equal(preprocess_image(pixels, preprocess), expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1), (2, 5), (3, 3000)])
def test_any_shape_gives_the_models_input(shape: tuple[int, int]) -> None:
    assert preprocess_image(noise(*shape), Preprocess()).shape == (224, 224, 3)


def test_a_square_image_of_the_crops_size_passes_unchanged() -> None:
    pixels = noise(384, 384)
    assert np.array_equal(preprocess_image(pixels, Preprocess(resize_size=384, crop_size=384)), pixels)


def test_a_long_picture_keeps_its_middle() -> None:
    pixels = np.zeros((10, 1000, 3), dtype=np.uint8)
    pixels[:, 450:550] = 255
    assert preprocess_image(pixels, Preprocess(resize_size=32, crop_size=32)).min() == 255


def test_the_input_stays_as_it_is() -> None:
    pixels = noise(300, 200)
    before = pixels.copy()
    preprocess_image(pixels, Preprocess())
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize(("resize_size", "crop_size"), [(100, 224), (256, 0), (5000, 224)])
def test_sizes_that_do_not_fit_are_refused(resize_size: int, crop_size: int) -> None:
    with pytest.raises(ValueError, match="1 <= crop_size <= resize_size <= 4096"):
        Preprocess(resize_size=resize_size, crop_size=crop_size)
