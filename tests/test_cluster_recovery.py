"""Lost nodes and dying workers: what is labelled again, and when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from imgcls_ray.data.cluster import longest_silence_s, outlive_lost_nodes
from imgcls_ray.data.pipeline import UnitCounts
from imgcls_ray.data.schema import Unit
from imgcls_ray.errors import StorageError
from imgcls_ray.models.classifier import StageSeconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

UNITS = [Unit(run=1, number=i, segment="000000", row_group=i, first_row=32 * i, num_rows=32) for i in range(4)]
Nodes = list[set[str]]


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("submit", "", cause)  # type: ignore[no-untyped-call]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """The nodes alive at each look; the last look goes on."""
    looks: Nodes = [{"a", "b"}]
    monkeypatch.setattr("imgcls_ray.data.cluster._alive_nodes", lambda: looks.pop(0) if len(looks) > 1 else looks[0])
    return looks


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


def test_after_a_lost_node_only_units_without_counts_are_labelled_again(nodes: Nodes) -> None:
    nodes[:] = [{"a", "b"}, {"a"}]
    label, given = attempts(ActorDiedError(), None)
    counts = list(outlive_lost_nodes(UNITS, label, max_deaths=0))
    assert [count.number for count in counts] == [0, 1, 2, 3]
    assert given == [[0, 1, 2, 3], [1, 2, 3]]


def test_pixels_lost_with_their_node_are_a_lost_node_too(nodes: Nodes) -> None:
    nodes[:] = [{"a", "b"}, {"a"}]
    lost = task_error(ActorDiedError())
    label, given = attempts(lost, None)
    assert len(list(outlive_lost_nodes(UNITS, label, max_deaths=0))) == 4
    assert len(given) == 2


def test_workers_that_die_on_living_nodes_end_the_job_at_the_bound(nodes: Nodes) -> None:
    label, given = attempts(*[ActorDiedError()] * 5, done=0)
    with pytest.raises(ActorDiedError):
        list(outlive_lost_nodes(UNITS, label, max_deaths=2))
    assert len(given) == 3


@pytest.mark.parametrize(
    "error",
    [
        task_error(StorageError("full")),
        ActorDiedError(task_error(StorageError("no model"))),
    ],
    ids=["in its work", "in its start"],
)
def test_a_worker_that_fails_is_not_tried_again(nodes: Nodes, error: Exception) -> None:
    nodes[:] = [{"a", "b"}, {"a"}]
    label, given = attempts(error)
    with pytest.raises(type(error)):
        list(outlive_lost_nodes(UNITS, label, max_deaths=4))
    assert len(given) == 1


def test_silence_is_allowed_for_as_long_as_a_unit_of_hanging_reads_takes() -> None:
    assert longest_silence_s(UNITS, fetch_timeout_s=60.0, num_fetch_threads=16) == 1800
    [large] = [UNITS[0]._replace(num_rows=2048)]
    assert longest_silence_s([large], fetch_timeout_s=60.0, num_fetch_threads=16) == 4 * 2048 * 60 / 16
