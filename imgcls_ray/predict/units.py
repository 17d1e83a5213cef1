"""Units through the workers on Ray, until a stop. Commits are the workers' own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from imgcls_ray.predict.label import LabelWork, block_of_unit
from imgcls_ray.store.counts import UnitCounts
from imgcls_ray.workers.board import Board
from imgcls_ray.workers.ray_pool import run_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgcls_ray.predict.label import LabelTask
    from imgcls_ray.store.schema import Unit
    from imgcls_ray.workers.ray_cluster import WorkerPlan


def label_units(
    units: Iterable[Unit], task: LabelTask, workers: WorkerPlan, board: Board | None = None, **options: Any
) -> Iterator[UnitCounts]:
    """Label units on the running Ray; each is durable when its counts come back, in any order.

    Args:
        units: what to label.
        task: how.
        workers: on how many actors.
        board: where the caller may call for a stop.
        options: of ``run_blocks``.
    """
    blocks = run_blocks(map(block_of_unit, units), partial(LabelWork, task), workers, board or Board(), **options)
    return (UnitCounts.from_table(block.content) for block in blocks)
