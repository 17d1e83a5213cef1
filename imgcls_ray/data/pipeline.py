"""Units through Ray Data: schedule, stream, retry. Commits are the workers' own."""

from __future__ import annotations

import itertools
import json
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imgcls_ray.data.board import Board
from imgcls_ray.data.cluster import outlive_deaths
from imgcls_ray.data.label import UnitClassifier, UnitDecoder, UnitLabeller, describe_units
from imgcls_ray.models.classifier import StageSeconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa
    from ray.data import Dataset

    from imgcls_ray.data.cluster import WorkerPlan
    from imgcls_ray.data.label import LabelTask
    from imgcls_ray.data.schema import Unit

# One block of Ray Data per unit is a few kilobytes of the driver's memory: a long run goes in waves.
UNITS_PER_WAVE = 4096
# The board bounds how often a unit may end its worker, and more exactly: this is for deaths before a unit is begun, and
# leaves room for the tries that fail in a row while a lost node is not known to be lost.
_MAX_TASK_RETRIES = 100
_UNITS_IN_HAND = 2
"""Of one actor: one computes, one waits for storage. More would only be more to do again after a death."""


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
    dataset = _dataset_of(units)
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


def _dataset_of(units: Sequence[Unit]) -> Dataset:
    import ray

    # One block per unit: a block is what Ray Data hands to an actor. From memory, because a read task would want
    # a CPU, and the actors hold them all.
    return ray.data.from_arrow([describe_units([unit]) for unit in units])


def map_units(
    dataset: Dataset,
    stage: Any,
    arguments: tuple[Any, ...],
    *,
    num_actors: int,
    on_gpu: bool = False,
    outlives_deaths: bool = True,
) -> Dataset:
    """Hand each block of a dataset to one of so many actors, whole, with bounds on restarts and retries."""
    from ray.data import ActorPoolStrategy

    with warnings.catch_warnings():
        # The bounds on restarts and retries have no named parameters yet; Ray 2.64, which drops these, is out of range.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        return dataset.map_batches(
            stage,
            fn_constructor_args=arguments,
            # A block is one unit and goes to its actor whole; with GPUs Ray Data wants a number: one row, one unit.
            batch_size=1 if on_gpu else None,
            batch_format="pyarrow",
            num_cpus=0 if on_gpu else 1,
            num_gpus=1 if on_gpu else None,
            # Ray Data sends an actor no more than it may have in hand, so a dead actor costs no more than that.
            compute=ActorPoolStrategy(
                size=num_actors,
                max_concurrent_calls_per_actor=_UNITS_IN_HAND,
                max_tasks_in_flight_per_actor=_UNITS_IN_HAND,
                enable_true_multi_threading=True,
            ),
            max_restarts=-1 if outlives_deaths else 0,
            max_task_retries=_MAX_TASK_RETRIES if outlives_deaths else 0,
        )


def quiet_ray_data() -> None:
    """Keep Ray Data's progress and its account of failures from the terminal."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Ray's wrapper loses the cause on its way between processes, and with it what to tell the user.
    context.raise_original_map_exception = True
    for name in ("ray.data", "ray.data._internal.execution"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        # What ends the job is raised, and told in one line; the whole of it stays in Ray's own log file.
        if type(handler).__module__.startswith("ray."):
            handler.setLevel(logging.CRITICAL)
    for name in ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state"):
        logging.getLogger(name).addFilter(_without_frames)


def _without_frames(record: logging.LogRecord) -> bool:
    """Make text of an exception that Ray Data logs: the frames of its traceback hold handles of actors.

    As long as any handler keeps such a record, a failed attempt's actors would keep the GPU that the next one needs.
    """
    if record.exc_info:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
    return True
