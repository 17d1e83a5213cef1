"""Attempts that end with a death: what is done again, and when it ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from imgcls_ray.errors import JobFailedError, StorageError
from imgcls_ray.workers.board import Board
from imgcls_ray.workers.plan import WorkerPlan
from imgcls_ray.workers.ray_attempts import outlive_deaths
from imgcls_ray.workers.ray_pool import Joined, run_blocks
from imgcls_ray.workers.worker import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

BLOCKS = [Block(i, f"block-{i}", f"block {i}", pa.table({})) for i in range(4)]


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("submit", "", cause)  # type: ignore[no-untyped-call]


def attempts(
    *ends: Exception | None, done: int = 1
) -> tuple[Callable[[Sequence[Block]], Generator[Block, None, None]], list[list[int]]]:
    """Attempts that end after ``done`` blocks with an error, and what each was given."""
    given: list[list[int]] = []
    remaining = list(ends)

    def run(blocks: Sequence[Block]) -> Generator[Block, None, None]:
        given.append([block.number for block in blocks])
        end = remaining.pop(0)
        yield from blocks if end is None else blocks[:done]
        if end is not None:
            raise end

    return run, given


def test_after_a_death_only_blocks_that_have_not_come_back_are_run_again() -> None:
    run, given = attempts(ActorDiedError(), None)
    done = list(outlive_deaths(BLOCKS, run))
    assert [block.number for block in done] == [0, 1, 2, 3]
    assert given == [[0, 1, 2, 3], [1, 2, 3]]


def test_an_attempt_is_closed_before_its_run_ends_or_another_one_begins() -> None:
    events: list[str] = []
    kept = []

    def run(blocks: Sequence[Block]) -> Generator[Block, None, None]:
        # Somebody else knows it too, as a circle or a traceback may.
        kept.append(attempt := _attempt(blocks))
        return attempt

    def _attempt(blocks: Sequence[Block]) -> Generator[Block, None, None]:
        events.append("begins")
        try:
            yield from blocks
            pytest.fail("the run waits for what only a straggler could bring")
        finally:
            events.append("ends")

    assert len(list(outlive_deaths(BLOCKS, run))) == 4
    events.append("over")
    assert len(list(outlive_deaths(BLOCKS[:1], run))) == 1
    assert events == ["begins", "ends", "over", "begins", "ends"]


class LostTable(Board):
    """A board whose node has gone."""

    def is_stopped(self) -> bool:
        raise ConnectionError("the table cannot be reached")


def test_a_board_that_cannot_be_reached_ends_the_job_in_one_line() -> None:
    make_work = lambda: pytest.fail("no worker starts")  # noqa: E731
    blocks = run_blocks([], make_work, WorkerPlan(1, 0), LostTable(), joined=Joined(), what_now="; again")
    with pytest.raises(JobFailedError, match=r"^a worker failed for good: the table cannot be reached; again$"):
        list(blocks)


def test_pixels_that_were_lost_with_their_node_are_a_death_too() -> None:
    run, given = attempts(task_error(ActorDiedError()), None)
    assert len(list(outlive_deaths(BLOCKS, run))) == 4
    assert len(given) == 2


def test_deaths_between_which_blocks_are_done_may_be_many() -> None:
    blocks = [replace(BLOCKS[0], number=i) for i in range(20)]
    run, given = attempts(*[ActorDiedError()] * 19, None)
    assert len(list(outlive_deaths(blocks, run))) == 20
    assert len(given) == 20


def test_attempts_in_which_nothing_is_done_come_to_an_end() -> None:
    run, given = attempts(*[ActorDiedError()] * 99, done=0)
    with pytest.raises(ActorDiedError):
        list(outlive_deaths(BLOCKS, run))
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
    run, given = attempts(error)
    with pytest.raises(type(error)):
        list(outlive_deaths(BLOCKS, run))
    assert len(given) == 1
