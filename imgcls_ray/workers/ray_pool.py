"""Blocks of work on actors through Ray Data: schedule, stream, retry, and outlive the nodes it loses.

What a lost node costs are the units that it had in work. On CPUs Ray sees to that: it restarts the dead node's actors
on another node as soon as those there have nothing left to do, and gives them their units again. With GPUs it cannot:
decoded units lie in the memory of the node that decoded them, and when that dies the GPU actors wait for pixels that
only a restarted decoder can make again, while the decoders that live hold every CPU and wait for the GPU actors. There
a death ends the attempt, and another one does what is left.
"""

from __future__ import annotations

import gc
import logging
import warnings
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pyarrow as pa
    from ray.data import Dataset
    from ray.exceptions import RayError

# The board bounds how often a unit may end its worker, and more exactly: this is for deaths before a unit is begun, and
# leaves room for the tries that fail in a row while a lost node is not known to be lost.
_MAX_TASK_RETRIES = 100
_UNITS_IN_HAND = 2
"""Of one actor: one computes, one waits for storage. More would only be more to do again after a death."""

logger = logging.getLogger(__name__)

# A unit is given up when it has ended five workers; so many attempts without a single unit done are more than that.
_MAX_ATTEMPTS_IN_VAIN = 10


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


class Numbered(Protocol):
    """A unit of work, or what became of it."""

    @property
    def number(self) -> int:
        """Of the unit; of the two that belong together it is the same."""


U = TypeVar("U", bound=Numbered)
C = TypeVar("C", bound=Numbered)


def outlive_deaths(units: Sequence[U], label: Callable[[Sequence[U]], Iterator[C]]) -> Iterator[C]:
    """Label units; where a death ends an attempt, another one takes those that have no counts yet.

    A unit whose counts were lost with an attempt is found done by the next: its part file is there. How often a unit
    may end its worker is counted elsewhere (``Board``); here it is the attempts in which nothing was done.

    Args:
        units: one wave.
        label: one attempt, with new actors, on the nodes that are there.

    Raises:
        RayError: the attempts failed for another reason than deaths, or in vain.
    """
    from ray.exceptions import RayError

    todo = {unit.number: unit for unit in units}
    num_in_vain = 0
    while todo:
        try:
            for counts in label(list(todo.values())):
                num_in_vain = 0
                todo.pop(counts.number, None)
                yield counts
            return
        except RayError as error:
            num_in_vain += 1
            if not _is_death(error) or num_in_vain > _MAX_ATTEMPTS_IN_VAIN:
                raise
            logger.warning("a worker or its node died; %d units go on with new workers", len(todo))
        # Ray ends an actor when nothing knows it any more, and the failed attempt is full of circles: its actors would
        # keep the GPU that the next one's wait for.
        gc.collect()


def _is_death(error: RayError) -> bool:
    """Whether workers or what they held were lost, rather than failed by what they did."""
    from ray.exceptions import RayActorError, RayError, RayTaskError

    if isinstance(error, RayTaskError):
        # A task that could not read its input because the input's maker is dead.
        return isinstance(error.cause, RayError) and _is_death(error.cause)
    # An actor that cannot be made here cannot be made again.
    return not (isinstance(error, RayActorError) and error.actor_init_failed)


def dataset_of(blocks: Iterable[pa.Table]) -> Dataset:
    """A dataset of one block for each table: a block is what Ray Data hands to an actor.

    From memory, because a read task would want a CPU, and the actors hold them all.
    """
    import ray

    dataset: Dataset = ray.data.from_arrow(list(blocks))
    return dataset


def worker_name() -> str:
    """The name of the actor that this process is."""
    import ray

    return ray.get_runtime_context().get_actor_id() or "no actor"
