"""Which images make which batch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from imgcls_ray.train.order import BatchOrder, Sample


def make_order(**changes: Any) -> BatchOrder:
    values: dict[str, Any] = {
        "labels": np.arange(50, dtype=np.int32) % 5,
        "num_val": 23,
        "batch_size": 16,
        "accumulate_steps": 1,
        "seed": 0,
        "balanced": False,
        "rank": 0,
        "world_size": 1,
    }
    return BatchOrder(**{**values, **changes})


def numbers(passes: Any) -> list[list[int]]:
    return [[sample.number for sample in samples] for samples in passes]


def test_an_epoch_is_whole_batches_of_distinct_images() -> None:
    batches = numbers(make_order().train_passes(0))
    assert [len(batch) for batch in batches] == [16, 16, 16]
    assert len({number for batch in batches for number in batch}) == 48


def test_epochs_and_seeds_have_orders_of_their_own_and_the_same_ones_again() -> None:
    order = make_order()
    assert list(order.train_passes(3)) == list(order.train_passes(3))
    assert numbers(order.train_passes(3)) != numbers(order.train_passes(4))
    assert numbers(order.train_passes(3)) != numbers(make_order(seed=1).train_passes(3))


@pytest.mark.parametrize(("world_size", "accumulate_steps"), [(2, 1), (3, 1), (1, 4), (3, 2)])
def test_batches_are_the_same_however_they_are_shared_out(world_size: int, accumulate_steps: int) -> None:
    whole = [sorted(batch) for batch in numbers(make_order().train_passes(0))]
    shares = [
        numbers(make_order(rank=rank, world_size=world_size, accumulate_steps=accumulate_steps).train_passes(0))
        for rank in range(world_size)
    ]
    assert {len(passes) for passes in shares} == {3 * accumulate_steps}
    for step, batch in enumerate(whole):
        parts = [passes[step * accumulate_steps : (step + 1) * accumulate_steps] for passes in shares]
        assert sorted(number for part in parts for one in part for number in one) == batch


def test_the_middle_of_an_epoch_is_its_end_and_nothing_else() -> None:
    order = make_order()
    assert list(order.train_passes(1, first_step=2)) == list(order.train_passes(1))[2:]


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_every_image_of_val_is_seen_once(world_size: int) -> None:
    orders = [make_order(rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [numbers(order.val_batches()) for order in orders]
    assert [len(one) for one in batches] == [order.num_val_batches for order in orders]
    assert Counter(number for one in batches for batch in one for number in batch) == Counter(range(23))


def test_balanced_sampling_draws_every_class_equally_often() -> None:
    labels = np.array([0] * 900 + [1] * 100, dtype=np.int32)
    order = make_order(labels=labels, balanced=True, batch_size=1000)
    [batch] = numbers(order.train_passes(0))
    assert 400 < sum(labels[number] == 1 for number in batch) < 600


def test_an_image_is_augmented_otherwise_in_every_epoch() -> None:
    order = make_order()
    seeds = {sample.seed for epoch in range(4) for samples in order.train_passes(epoch) for sample in samples}
    assert len(seeds) == 4 * 48
    assert all(isinstance(sample, Sample) and 0 <= sample.seed < 2**63 for sample in next(order.train_passes(0)))
