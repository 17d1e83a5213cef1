"""What a run gets where nothing is given, by the number of its images."""

from __future__ import annotations

from typing import Any

import pytest

from imgcls_ray.train.choices import FEW_IMAGES, Begin, choose_batch_size, choose_epochs
from tests.train.test_recipe import resolved

COUNTS = (1, 2, 7, 17, 20, 31, 200, 300, 1_649, 4_000, 4_001, 9_999, 20_000, 20_001, 1_281_167)


@pytest.mark.parametrize("count", COUNTS)
def test_a_batch_is_never_more_than_the_images_and_leaves_few_out(count: int) -> None:
    size = choose_batch_size(count, num_parts=1)
    assert 1 <= size <= min(count, 64)
    # No epoch loses a step that a batch a little smaller would have.
    assert count % size <= count / 16
    assert count < 16 or size >= 8


@pytest.mark.parametrize("num_parts", [1, 2, 3, 8, 40])
def test_a_batch_has_images_for_every_pass_of_every_worker(num_parts: int) -> None:
    assert choose_batch_size(300, num_parts=num_parts) >= min(8 * num_parts, 300) // 2
    assert choose_batch_size(40, num_parts=num_parts) >= num_parts


@pytest.mark.parametrize("begin", ["random", "trained", "probe"])
def test_fewer_images_mean_more_epochs(begin: Begin) -> None:
    epochs = [choose_epochs(count, begin) for count in COUNTS if count <= FEW_IMAGES]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[0] >= 100
    assert choose_epochs(FEW_IMAGES + 1, begin) == 20


def test_few_images_get_mild_pictures_and_a_rate_of_their_own() -> None:
    few, many = (resolved("SwinTransformer_tiny_patch4_window7_224", num_images=count) for count in (300, 1_000_000))
    assert (few.mixup, few.cutmix, few.random_erasing) == (0, 0, 0)
    assert min(many.mixup, many.cutmix, many.random_erasing) > 0
    assert few.crop_scale > many.crop_scale
    assert few.epochs > many.epochs
    assert few.weight_decay == many.weight_decay


def test_some_thousand_images_get_the_recipe_that_was_measured_on_them() -> None:
    """docs/train.md has its accuracy."""
    recipe = resolved("PP-LCNet_x1_0", num_images=1_653, batch_size=choose_batch_size(1_653, num_parts=1))
    assert choose_batch_size(1_653, num_parts=1) == 16
    assert (recipe.epochs, recipe.learning_rate, recipe.crop_scale, recipe.warmup_epochs) == (24, 0.05, 0.7, 5)
    assert (recipe.optimizer, recipe.schedule, recipe.weight_decay, recipe.ema_decay) == ("sgd", "cosine", 3e-5, 0)


def test_values_that_are_given_win_over_those_for_few_images() -> None:
    given: dict[str, Any] = {"epochs": 3, "learning_rate": 0.5, "mixup": 0.3, "crop_scale": 0.1, "schedule": "constant"}
    recipe = resolved("PP-LCNet_x1_0", num_images=300, **given)
    assert {key: getattr(recipe, key) for key in given} == given
    assert recipe.warmup_epochs == 0.75


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_trained_weights_get_fewer_epochs_and_lower_rates_a_new_head_alone_higher_ones(optimizer: str) -> None:
    values: dict[str, Any] = {"num_images": 300, "optimizer": optimizer}
    random = resolved("ResNet50", **values)
    trained = resolved("ResNet50", is_trained=True, **values)
    probe = resolved("ResNet50", is_trained=True, freeze="backbone", **values)
    assert trained.epochs < random.epochs
    assert trained.learning_rate < random.learning_rate < probe.learning_rate
