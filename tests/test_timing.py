"""A bound on time breaks for what is slow by itself, and holds on a machine that was busy once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.timing import assert_within

if TYPE_CHECKING:
    from collections.abc import Callable


def clock_of(*taken: float) -> Callable[[], float]:
    """A clock by which the runs take so many seconds, one after the other."""
    told = iter([value for number, seconds in enumerate(taken) for value in (100.0 * number, 100 * number + seconds)])
    return lambda: next(told)


@pytest.mark.parametrize(("taken", "num_runs"), [([0.9], 1), ([5, 0.9], 2), ([5, 2, 0.9], 3)])
def test_one_run_within_the_bound_is_enough(taken: list[float], num_runs: int) -> None:
    runs: list[None] = []
    assert_within(1, lambda: runs.append(None), clock_of(*taken))
    assert len(runs) == num_runs


def test_what_is_slow_three_times_is_too_slow() -> None:
    with pytest.raises(AssertionError):
        assert_within(1, lambda: None, clock_of(1, 2, 3))


def test_what_fails_is_not_tried_again() -> None:
    with pytest.raises(ZeroDivisionError):
        assert_within(1, lambda: 1 // 0, clock_of(0.5, 0.5))
