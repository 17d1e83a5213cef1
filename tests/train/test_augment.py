"""What is done to single training images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from imgcls_ray.train.augment import Augmentation

PLAIN = Augmentation(32, "bilinear", 1.0, 0.0, 0, 0.0, (0.5, 0.5, 0.5))


def test_each_operation_is_applied_to_half_of_the_images() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    augment = replace(PLAIN, rand_augment=9).build()
    whole = torch.from_numpy(pixels).permute(2, 0, 1)
    num_same = sum(augment(pixels, seed).equal(whole) for seed in range(300))
    # A quarter, and some more: one of the 14 operations changes nothing.
    assert 0.2 < num_same / 300 < 0.38


def test_a_vertical_flip_is_as_likely_as_asked() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    augment = replace(PLAIN, vertical_flip=0.25).build()
    whole = torch.from_numpy(pixels).permute(2, 0, 1)
    drawn = [augment(pixels, seed) for seed in range(200)]
    num_flipped = sum(image.equal(whole.flip(1)) for image in drawn)
    assert 0.17 < num_flipped / 200 < 0.33
    assert num_flipped + sum(image.equal(whole) for image in drawn) == 200


def test_colours_change_within_bounds_and_grey_stays_grey() -> None:
    grey = np.full((32, 32, 3), 100, np.uint8)
    augment = replace(PLAIN, color_jitter=0.4).build()
    drawn = [augment(grey, seed) for seed in range(100)]
    assert all((image == image[0, 0, 0]).all() for image in drawn)
    values = [int(image[0, 0, 0]) for image in drawn]
    assert 58 <= min(values) < 70
    assert 130 < max(values) <= 142
    # A hue keeps its order of colours: red stays red.
    red = np.zeros((32, 32, 3), np.uint8)
    red[:, :, 0], red[:, :, 1] = 180, 60
    for seed in range(50):
        first, second, third = augment(red, seed)[:, 0, 0].tolist()
        assert first > second >= third
