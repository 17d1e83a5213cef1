"""Make the optimizer, the learning rate and the averaged weights of a recipe, with torch and timm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from timm.utils import ModelEmaV3
    from torch import nn

    from imgcls_ray.train.recipe import Recipe

_NUM_STEPS_DOWN = 3
_STEP_FACTOR = 0.1


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make SGD with momentum, or AdamW, over the trainable weights. Norms and biases have no weight decay."""
    from timm.optim import create_optimizer_v2

    options = {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {}
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        network,
        # timm's "sgd" is Nesterov's; the recipes' is the plain one.
        opt="momentum" if recipe.optimizer == "sgd" else "adamw",
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay if recipe.layer_decay < 1 else None,
        **options,
    )
    return optimizer


def learning_rate_at(step: int, recipe: Recipe, *, epochs: int, steps_per_epoch: int) -> float:
    """Compute the learning rate of a step. It depends on nothing else, so a resumed run needs no scheduler state.

    It rises linearly over ``warmup_epochs``. Then it follows the schedule: a half cosine down to ``min_learning_rate``
    (Loshchilov and Hutter 2016, https://arxiv.org/abs/1608.03983); a tenth of the rate at each quarter of the epochs;
    or constant. In a range test it rises by the same factor at each step.

    >>> from imgcls_ray.train.recipe import Recipe
    >>> recipe = Recipe(learning_rate=1.0, schedule="step", warmup_epochs=1)
    >>> [round(learning_rate_at(step, recipe, epochs=8, steps_per_epoch=1), 4) for step in range(8)]
    [0.5, 1.0, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]

    Args:
        step: number of the optimizer step in the run, from 0.
        recipe: peak learning rate, schedule and warm-up.
        epochs: number of epochs of the run.
        steps_per_epoch: number of steps of an epoch.
    """
    # Not timm's schedulers: they keep what they set in an optimizer, and round otherwise. In a run of 520 steps, 91 of
    # them warm-up, 160 rates differ from these in their last digits, and a run that goes on would not be what it was.
    warmup_steps = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return recipe.learning_rate * (step + 1) / (warmup_steps + 1)
    total = epochs * steps_per_epoch
    if recipe.schedule == "range":
        return float(recipe.min_learning_rate * (recipe.learning_rate / recipe.min_learning_rate) ** (step / total))
    if recipe.schedule == "cosine":
        progress = (step - warmup_steps) / max(total - warmup_steps, 1)
        low = min(recipe.min_learning_rate, recipe.learning_rate)
        return low + (recipe.learning_rate - low) * (1 + math.cos(math.pi * progress)) / 2
    if recipe.schedule == "step":
        num_down = min(step * (_NUM_STEPS_DOWN + 1) // total, _NUM_STEPS_DOWN)
        return recipe.learning_rate * _STEP_FACTOR**num_down
    return recipe.learning_rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group; with layer decay, scaled by the group's ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def average_of(network: nn.Module, recipe: Recipe) -> ModelEmaV3 | None:
    """Make the running average (EMA) of the weights; None without ``ema_decay``.

    Its decay rises during the run, so that short runs are averaged too.
    """
    if not recipe.ema_decay:
        return None
    from timm.utils import ModelEmaV3

    # Reaches 0.99 after 460 steps and 0.999 after 10,000.
    return ModelEmaV3(network, decay=recipe.ema_decay, use_warmup=True, warmup_power=3 / 4)
