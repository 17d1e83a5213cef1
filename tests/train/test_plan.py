"""What comes when: a run that goes on has the steps, the evaluations and the batches that it would have had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from imgcls_ray.train.order import BatchOrder
from imgcls_ray.train.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.config import TrainConfig

EPOCHS, STEPS = 4, 3


@pytest.fixture
def make_plan(make_train_config: Callable[..., TrainConfig]) -> Callable[[int], Plan]:
    """The plan after so many steps: 13 images in batches of 4 and two passes, and an evaluation after two steps."""
    order = BatchOrder(np.zeros(13, np.int32), 2, 4, 2, seed=0, balanced=False, rank=0, world_size=1)
    config = make_train_config(accumulate_steps=2, eval_steps=2, eval_interval=3)
    return lambda step: Plan(order, config, epochs=EPOCHS, step=step)


def test_evaluations_come_within_epochs_and_at_the_end_of_some(make_plan: Callable[[int], Plan]) -> None:
    plan = make_plan(0)
    splits = [batch[0].split for batch in plan.batches()]
    passes = ["train"] * 2
    within = [*passes, *passes, "val", *passes]
    assert splits == [*within, *within, *within, "val", *within, "val"]
    assert [plan.is_evaluated(epoch) for epoch in range(EPOCHS)] == [False, False, True, True]
    assert [plan.is_evaluated_after(step) for step in range(STEPS)] == [False, True, False]


@pytest.mark.parametrize("step", range(EPOCHS * STEPS + 1))
def test_what_is_left_is_the_end_of_the_whole(step: int, make_plan: Callable[[int], Plan]) -> None:
    whole, plan = list(make_plan(0).batches()), make_plan(step)
    left = list(plan.batches())
    assert left == whole[len(whole) - len(left) :]
    assert sum(batch[0].split == "train" for batch in left) == 2 * (EPOCHS * STEPS - step)
    assert sum(len(plan.steps_of(epoch)) for epoch in plan.epochs()) == EPOCHS * STEPS - step
