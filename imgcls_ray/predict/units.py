"""Units through the workers, until a stop. Commits are the workers' own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from imgcls_ray.predict.label import LabelWork, block_of_unit
from imgcls_ray.store.counts import UnitCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgcls_ray.predict.label import LabelTask
    from imgcls_ray.store.schema import Unit
    from imgcls_ray.workers.pool import Pool


def label_units(
    units: Iterable[Unit], task: LabelTask, pool: Pool, *, what_now: str = "", num_threads: int = 1, num_cores: int = 1
) -> Iterator[UnitCounts]:
    """Label units; each is durable when its counts come back, in any order.

    Args:
        units: what to label.
        task: how.
        pool: its workers do it, and it is where the caller may call for a stop.
        what_now: for people, after why a worker failed.
        num_threads: of one forward pass in each worker, on a CPU.
        num_cores: forward passes at once in each worker, on a CPU.
    """
    make_work = partial(LabelWork, task, num_threads=num_threads, num_cores=num_cores)
    blocks = pool.run(map(block_of_unit, units), make_work, what_now=what_now)
    return (UnitCounts.from_table(block.content) for block in blocks)
