"""Range test of the learning rate: train while it rises from almost nothing, and see where the loss falls.

Smith 2015, "Cyclical learning rates for training neural networks", https://arxiv.org/abs/1506.01186.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.errors import JobFailedError
from imgcls_ray.train.events import StepsDone
from imgcls_ray.train.trial import part_of, try_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.train.trial import Begun

_NUM_STEPS = 100
_RANGES = {"sgd": (1e-4, 3.0), "adamw": (1e-6, 0.1)}
_SMOOTHING_STEPS = 4.0
"""Standard deviation of the bell of steps that each loss is averaged over: batches are small, and differ."""
_ENOUGH = 4.0
"""A loss so many times the lowest one ends the test."""


@dataclass(frozen=True)
class RangeTest:
    """The loss at rising learning rates."""

    rates: list[float]
    losses: list[float]
    """Of the rates, averaged over the steps around each."""
    steepest: float
    """Rate at which the loss falls fastest, seen on a logarithmic axis."""
    lowest: float
    """Rate at which the loss is lowest: a run with it is about to diverge."""


def run_range_test(begun: Begun) -> RangeTest:
    """Train at most 100 steps, and end when the loss explodes.

    Raises:
        JobFailedError: the images cannot be read.
    """
    low, high = _RANGES[begun.recipe.optimizer]
    epochs, per_epoch = parts_of(_NUM_STEPS, len(begun.entries.tables["train"]) // begun.batch_size)
    entries = part_of(begun.entries, num_train=per_epoch * begun.batch_size, num_val=begun.batch_size)
    recipe = replace(
        begun.recipe,
        epochs=epochs,
        schedule="range",
        warmup_epochs=0.0,
        learning_rate=high,
        min_learning_rate=low,
        ema_decay=0.0,
    )
    # Nothing is evaluated but what the last epoch cannot do without.
    config = begun.config.model_copy(update={"eval_interval": recipe.epochs})
    best = float("inf")

    def is_enough(event: StepsDone) -> bool:
        nonlocal best
        best = min(best, event.loss)
        return not event.loss <= _ENOUGH * best

    events, outcome = try_steps(replace(begun, config=config, recipe=recipe), entries, is_enough=is_enough)
    steps = [event for _, event in events if isinstance(event, StepsDone) and np.isfinite(event.loss)]
    if len(steps) < 3:
        raise JobFailedError(f"the range test failed: {outcome.reason or 'it has too few steps'}")
    return judged([step.learning_rate for step in steps], [step.loss for step in steps])


def parts_of(num_steps: int, most: int) -> tuple[int, int]:
    """The fewest epochs of at most ``most`` steps that make ``num_steps`` or a little less, and the steps of each.

    >>> parts_of(100, 1_000), parts_of(100, 99), parts_of(100, 3), parts_of(100, 1)
    ((1, 100), (2, 50), (34, 2), (100, 1))
    """
    epochs = -(-num_steps // most)
    return epochs, num_steps // epochs


def judged(rates: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """Smooth the losses of a range test, and find its marks.

    Args:
        rates: rising by the same factor each.
        losses: of single steps.
    """
    places = np.arange(len(losses))
    weights = np.exp(-(((places[:, None] - places) / _SMOOTHING_STEPS) ** 2) / 2)
    smooth = weights @ np.array(losses) / weights.sum(axis=1)
    lowest = int(np.argmin(smooth))
    # What comes after the lowest point falls no more.
    falls = np.gradient(smooth)[: lowest + 1]
    return RangeTest(list(rates), smooth.tolist(), rates[int(np.argmin(falls))], rates[lowest])
