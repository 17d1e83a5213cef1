"""Optimizer, learning rate and averaged weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from imgcls_ray.train.optimisation import average_of, learning_rate_at, make_optimizer, set_learning_rate
from imgcls_ray.train.recipe import Recipe

RECIPE = Recipe(learning_rate=1.0, min_learning_rate=0.1, warmup_epochs=2.0)


def rates(recipe: Recipe, *, epochs: int = 10, steps_per_epoch: int = 10) -> list[float]:
    total = epochs * steps_per_epoch
    return [learning_rate_at(step, recipe, epochs=epochs, steps_per_epoch=steps_per_epoch) for step in range(total)]


def test_it_rises_for_the_epochs_of_warm_up_then_falls_in_a_half_cosine() -> None:
    rate = rates(RECIPE)
    assert rate[:21] == sorted(rate[:21])
    assert rate[0] == pytest.approx(1 / 21)
    assert rate[20] == 1.0
    assert rate[60] == pytest.approx(0.55)
    assert rate[20:] == sorted(rate[20:], reverse=True)
    assert rate[-1] == pytest.approx(0.1, abs=1e-3)


def test_steps_come_at_the_quarters() -> None:
    rate = rates(replace(RECIPE, schedule="step", warmup_epochs=0.0), epochs=120, steps_per_epoch=1)
    assert (rate[29], rate[30], rate[60], rate[90], rate[119]) == pytest.approx((1, 0.1, 0.01, 0.001, 0.001))


def test_a_constant_rate_only_warms_up() -> None:
    assert set(rates(replace(RECIPE, schedule="constant"))[20:]) == {1.0}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay(optimizer: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    made = make_optimizer(network, replace(RECIPE, optimizer=optimizer, weight_decay=0.5))  # type: ignore[arg-type]
    decay = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert decay[id(parameter)] == (0.5 if parameter.ndim > 1 else 0), name


def test_sgd_is_the_recipes_plain_one() -> None:
    made = make_optimizer(nn.Linear(2, 2), replace(RECIPE, momentum=0.8))
    assert isinstance(made, torch.optim.SGD)
    assert all(group["momentum"] == 0.8 and not group["nesterov"] for group in made.param_groups)


def test_layers_nearer_to_the_image_learn_slower() -> None:
    import timm

    network = timm.create_model("lcnet_035", num_classes=3)
    made = make_optimizer(network, replace(RECIPE, layer_decay=0.5))
    set_learning_rate(made, 1.0)
    rate = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    assert rate[id(network.get_classifier().weight)] == 1.0
    assert rate[id(network.conv_stem.weight)] < 0.2


def test_averaged_weights_follow_from_the_first_step_on_and_then_slowly() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = average_of(network, replace(RECIPE, ema_decay=0.999))
    assert average is not None
    with torch.no_grad():
        network.weight.fill_(1.0)
        average.update(network, 1)
        assert average.module.weight.item() == 1.0
        network.weight.fill_(2.0)
        average.update(network, 10_000)
    assert 1.0 < average.module.weight.item() < 1.01
    assert average_of(network, RECIPE) is None
