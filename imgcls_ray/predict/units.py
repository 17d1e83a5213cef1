"""Units through the workers on Ray: wave by wave, until a stop. Commits are the workers' own."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls_ray.models.classifier import StageSeconds
from imgcls_ray.predict.label import UnitClassifier, UnitDecoder, UnitLabeller, describe_units
from imgcls_ray.workers.board import Board
from imgcls_ray.workers.ray_pool import dataset_of, map_units, outlive_deaths, quiet_ray_data

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa
    from ray.data import Dataset

    from imgcls_ray.predict.label import LabelTask
    from imgcls_ray.store.schema import Unit
    from imgcls_ray.workers.ray_cluster import WorkerPlan

# One block of Ray Data per unit is a few kilobytes of the driver's memory: a long run goes in waves.
UNITS_PER_WAVE = 4096


@dataclass(frozen=True)
class UnitCounts:
    """What became of one unit."""

    number: int
    num_images: int
    committed: bool
    """False if another worker's part was there first."""
    codes: dict[str, int]
    """Images per status: ``ok`` or an error code."""
    seconds: StageSeconds
    skipped_by: tuple[str, ...] = ()
    """The actors that did not begin it, because the command is stopping."""


def label_units(
    units: Iterable[Unit],
    task: LabelTask,
    workers: WorkerPlan,
    board: Board | None = None,
    *,
    gpu_device: str = "cuda",
) -> Iterator[UnitCounts]:
    """Label units on the running Ray; each is durable when its counts come back, in any order.

    Args:
        units: what to label.
        task: how.
        workers: on how many actors.
        board: where the caller may call for a stop. The counts end when every actor has brought to an end what it had
            in hand; units that were not begun have none.
        gpu_device: of a GPU actor: tests use Ray's logical GPUs with ``cpu``.
    """
    quiet_ray_data()
    board = board or Board()
    units = iter(units)
    while not board.is_stopped() and (wave := list(itertools.islice(units, UNITS_PER_WAVE))):
        yield from outlive_deaths(wave, lambda left: _attempt(left, task, workers, board, gpu_device))
    if not board.is_stopped():
        # What a stopped command leaves there, a few bytes, its last actors may still have to read.
        board.clear()


def _attempt(
    units: Sequence[Unit], task: LabelTask, workers: WorkerPlan, board: Board, gpu_device: str
) -> Iterator[UnitCounts]:
    """Label units with new actors."""
    dataset = dataset_of(describe_units([unit]) for unit in units)
    num_cpu_actors = min(workers.num_cpu_workers, len(units))
    if workers.num_gpu_workers:
        dataset = map_units(dataset, UnitDecoder, (task, board), num_actors=num_cpu_actors, outlives_deaths=False)
        gpu_arguments = (task, board, gpu_device)
        dataset = map_units(
            dataset,
            UnitClassifier,
            gpu_arguments,
            num_actors=workers.num_gpu_workers,
            on_gpu=True,
            outlives_deaths=False,
        )
    else:
        dataset = map_units(dataset, UnitLabeller, (task, board), num_actors=num_cpu_actors)
    return _until_stopped(_counts_from(dataset), num_actors=num_cpu_actors + workers.num_gpu_workers)


def _counts_from(dataset: Dataset) -> Iterator[UnitCounts]:
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from counts_of(batch)


def _until_stopped(counts: Iterator[UnitCounts], *, num_actors: int) -> Iterator[UnitCounts]:
    """Leave out skipped units, and end when every actor has skipped one: each does so when it has nothing in hand.

    The thousands of skipped units behind them need not be waited for.
    """
    stopped: set[str] = set()
    for count in counts:
        if not count.skipped_by:
            yield count
            continue
        stopped.update(count.skipped_by)
        if len(stopped) == num_actors:
            return


def counts_of(table: pa.Table) -> Iterator[UnitCounts]:
    """Read the counts that a worker sent back."""
    for row in table.to_pylist():
        seconds = StageSeconds(**{name: row[name] for name in StageSeconds.__dataclass_fields__})
        yield UnitCounts(
            row["number"],
            row["num_images"],
            row["committed"],
            json.loads(row["codes"]),
            seconds,
            tuple(row["skipped_by"]),
        )
