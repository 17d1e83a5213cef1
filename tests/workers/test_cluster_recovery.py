"""Attempts that end with a death: what is labelled again, and when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from imgcls_ray.errors import StorageError
from imgcls_ray.models.classifier import StageSeconds
from imgcls_ray.predict.units import UnitCounts
from imgcls_ray.store.schema import Unit
from imgcls_ray.workers.ray_pool import outlive_deaths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

UNITS = [Unit(run=1, number=i, segment="000000", row_group=i, first_row=32 * i, num_rows=32) for i in range(4)]


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("submit", "", cause)  # type: ignore[no-untyped-call]


def counts_of(unit: Unit) -> UnitCounts:
    return UnitCounts(unit.number, unit.num_rows, True, {"ok": unit.num_rows}, StageSeconds())


def attempts(
    *ends: Exception | None, done: int = 1
) -> tuple[Callable[[Sequence[Unit]], Iterator[UnitCounts]], list[list[int]]]:
    """Attempts that end after ``done`` units with an error, and what each was given."""
    given: list[list[int]] = []
    remaining = list(ends)

    def label(units: Sequence[Unit]) -> Iterator[UnitCounts]:
        given.append([unit.number for unit in units])
        end = remaining.pop(0)
        yield from map(counts_of, units if end is None else units[:done])
        if end is not None:
            raise end

    return label, given


def test_after_a_death_only_units_without_counts_are_labelled_again() -> None:
    label, given = attempts(ActorDiedError(), None)
    counts = list(outlive_deaths(UNITS, label))
    assert [count.number for count in counts] == [0, 1, 2, 3]
    assert given == [[0, 1, 2, 3], [1, 2, 3]]


def test_pixels_that_were_lost_with_their_node_are_a_death_too() -> None:
    label, given = attempts(task_error(ActorDiedError()), None)
    assert len(list(outlive_deaths(UNITS, label))) == 4
    assert len(given) == 2


def test_deaths_between_which_units_are_done_may_be_many() -> None:
    units = [UNITS[0]._replace(number=i) for i in range(20)]
    label, given = attempts(*[ActorDiedError()] * 19, None)
    assert len(list(outlive_deaths(units, label))) == 20
    assert len(given) == 20


def test_attempts_in_which_nothing_is_done_come_to_an_end() -> None:
    label, given = attempts(*[ActorDiedError()] * 99, done=0)
    with pytest.raises(ActorDiedError):
        list(outlive_deaths(UNITS, label))
    assert len(given) == 11


@pytest.mark.parametrize(
    "error",
    [
        task_error(StorageError("full")),
        ActorDiedError(task_error(StorageError("no model"))),
    ],
    ids=["in its work", "in its start"],
)
def test_a_worker_that_fails_is_not_tried_again(error: Exception) -> None:
    label, given = attempts(error)
    with pytest.raises(type(error)):
        list(outlive_deaths(UNITS, label))
    assert len(given) == 1
