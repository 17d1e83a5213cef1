"""Blocks of work on actors through Ray Data: schedule, stream, retry, and outlive the nodes it loses.

What a lost node costs are the blocks that it had in work. On CPUs Ray sees to that: it restarts the dead node's actors
on another node as soon as those there have nothing left to do, and gives them their blocks again. With GPUs it cannot:
decoded blocks lie in the memory of the node that decoded them, and when that dies the GPU actors wait for pixels that
only a restarted decoder can make again, while the decoders that live hold every CPU and wait for the GPU actors. There
a death ends the attempt, and another one does what is left.
"""

from __future__ import annotations

import gc
import logging
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from imgcls_ray.workers.board import Board
from imgcls_ray.workers.ray_failures import causes_told, with_causes
from imgcls_ray.workers.worker import Block, BlockClassifier, BlockDecoder, BlockWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ray.data import Dataset
    from ray.exceptions import RayError

    from imgcls_ray.workers.ray_cluster import WorkerPlan
    from imgcls_ray.workers.worker import Work

# The board bounds how often a block may end its worker, and more exactly: this is for deaths before a block is begun,
# and leaves room for the tries that fail in a row while a lost node is not known to be lost.
_MAX_TASK_RETRIES = 100
_BLOCKS_IN_HAND = 2
"""Of one actor: one computes, one waits for storage. More would only be more to do again after a death."""
# A block costs the driver some kilobytes beside its content: a long run goes in waves.
_BLOCKS_PER_WAVE = 4096
_BYTES_PER_WAVE = 64 * 2**20

logger = logging.getLogger(__name__)

# A block is given up when it has ended five workers; so many attempts without a single block done are more than that.
_MAX_ATTEMPTS_IN_VAIN = 10


@dataclass(frozen=True)
class RayPool:
    """Actors on the running Ray, which every run of blocks starts anew."""

    plan: WorkerPlan
    gpu_device: str = "cuda"
    """Of a GPU actor: tests use Ray's logical GPUs with ``cpu``."""
    board: Board = field(default_factory=Board)

    def run(
        self, blocks: Iterable[Block], make_work: Callable[..., Work[Any, Any]], *, what_now: str = ""
    ) -> Iterator[Block]:
        """Run blocks; as ``Pool.run``."""
        return run_blocks(blocks, make_work, self.plan, self.board, gpu_device=self.gpu_device, what_now=what_now)

    def stop(self) -> None:
        """Begin nothing more; as ``Pool.stop``."""
        self.board.stop()


def run_blocks(
    blocks: Iterable[Block],
    make_work: Callable[..., Work[Any, Any]],
    workers: WorkerPlan,
    board: Board,
    *,
    gpu_device: str = "cuda",
    what_now: str = "",
) -> Iterator[Block]:
    """Run blocks on the running Ray; they come back in any order, with what came of them as their content.

    Args:
        blocks: read as they are needed.
        make_work: makes what a worker does; crosses process boundaries. With GPUs it is also told the ``device`` of the
            classifier: ``None`` for actors that only decode.
        workers: on how many actors.
        board: where the caller may call for a stop. The blocks then end when every actor has brought to an end what it
            had in hand; what was not begun does not come back.
        gpu_device: of a GPU actor's classifier.
        what_now: for people, after why a worker failed.

    Raises:
        ImgclsError: a worker failed for good.
    """
    quiet_ray_data()

    def attempt(left: Sequence[Block]) -> Iterator[Block]:
        return _attempt(left, make_work, workers, board, gpu_device)

    waves = _waves(blocks)
    while not (is_stopped := _is_stopped(board, what_now)) and (wave := next(waves, None)):
        yield from with_causes(outlive_deaths(wave, attempt), what_now)
    if not is_stopped:
        with causes_told(what_now):
            # What a stopped command leaves there, a few bytes, its last actors may still have to read.
            board.clear()


def _is_stopped(board: Board, what_now: str) -> bool:
    with causes_told(what_now):
        return board.is_stopped()


def _waves(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    wave: list[Block] = []
    num_bytes = 0
    for block in blocks:
        wave.append(block)
        num_bytes += block.content.nbytes
        if len(wave) == _BLOCKS_PER_WAVE or num_bytes >= _BYTES_PER_WAVE:
            yield wave
            wave, num_bytes = [], 0
    if wave:
        yield wave


def _attempt(
    blocks: Sequence[Block],
    make_work: Callable[..., Work[Any, Any]],
    workers: WorkerPlan,
    board: Board,
    gpu_device: str,
) -> Iterator[Block]:
    """Run blocks with new actors."""
    dataset = _dataset_of(blocks)
    num_cpu_actors = min(workers.num_cpu_workers, len(blocks))
    if num_gpu_actors := workers.num_gpu_workers:
        decode, classify = (partial(make_work, device=device) for device in (None, gpu_device))
        alone: dict[str, Any] = {"outlives_deaths": False}
        dataset = _map(dataset, BlockDecoder, decode, board, num_actors=num_cpu_actors, **alone)
        dataset = _map(dataset, BlockClassifier, classify, board, num_actors=num_gpu_actors, on_gpu=True, **alone)
    else:
        dataset = _map(
            dataset,
            BlockWorker,
            make_work,
            board,
            num_actors=num_cpu_actors,
            num_cpus=workers.cores_per_worker,
            memory=workers.bytes_per_worker,
        )
    batches: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    return _until_stopped(map(Block.from_table, batches), num_actors=num_cpu_actors + num_gpu_actors)


def _until_stopped(blocks: Iterator[Block], *, num_actors: int) -> Iterator[Block]:
    """Leave out skipped blocks, and end when every actor has skipped one: each does so when it has nothing in hand.

    The thousands of skipped blocks behind them need not be waited for.
    """
    stopped: set[str] = set()
    for block in blocks:
        if not block.skipped_by:
            yield block
            continue
        stopped.update(block.skipped_by)
        if len(stopped) == num_actors:
            return


def _map(
    dataset: Dataset,
    worker: type[BlockWorker[Any, Any]],
    make_work: Callable[[], Work[Any, Any]],
    board: Board,
    *,
    num_actors: int,
    num_cpus: int = 1,
    memory: int | None = None,
    on_gpu: bool = False,
    outlives_deaths: bool = True,
) -> Dataset:
    """Hand each block of a dataset to one of so many actors, whole, with bounds on restarts and retries."""
    from ray.data import ActorPoolStrategy

    with warnings.catch_warnings():
        # The bounds on restarts and retries have no named parameters yet; Ray 2.64, which drops these, is out of range.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        return dataset.map_batches(
            worker,
            fn_constructor_args=(make_work, board, worker_name),
            # A block goes to its actor whole; with GPUs Ray Data wants a number: one row, one block.
            batch_size=1 if on_gpu else None,
            batch_format="pyarrow",
            num_cpus=0 if on_gpu else num_cpus,
            num_gpus=1 if on_gpu else None,
            memory=memory,
            # Ray Data sends an actor no more than it may have in hand, so a dead actor costs no more than that.
            compute=ActorPoolStrategy(
                size=num_actors,
                max_concurrent_calls_per_actor=_BLOCKS_IN_HAND,
                max_tasks_in_flight_per_actor=_BLOCKS_IN_HAND,
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


def outlive_deaths(blocks: Sequence[Block], run: Callable[[Sequence[Block]], Iterator[Block]]) -> Iterator[Block]:
    """Run blocks; where a death ends an attempt, another one takes those that have not come back yet.

    What was done and had not come back, the next attempt does again, or finds committed. How often a block may end its
    worker is counted elsewhere (``Board``); here it is the attempts in which nothing was done.

    Args:
        blocks: one wave.
        run: one attempt, with new actors, on the nodes that are there.

    Raises:
        RayError: the attempts failed for another reason than deaths, or in vain.
    """
    from ray.exceptions import RayError

    todo = {block.number: block for block in blocks}
    num_in_vain = 0
    while todo:
        try:
            for done in run(list(todo.values())):
                num_in_vain = 0
                todo.pop(done.number, None)
                yield done
            return
        except RayError as error:
            num_in_vain += 1
            if not _is_death(error) or num_in_vain > _MAX_ATTEMPTS_IN_VAIN:
                raise
            logger.warning("a worker or its node died; %d blocks continue on new workers", len(todo))
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


def _dataset_of(blocks: Iterable[Block]) -> Dataset:
    """A dataset of one row for each block: Ray Data hands it to an actor on its own.

    From memory, because a read task would want a CPU, and the actors hold them all.
    """
    import ray

    dataset: Dataset = ray.data.from_arrow([block.to_table() for block in blocks])
    return dataset


def worker_name() -> str:
    """The name of the actor that this process is."""
    import ray

    return ray.get_runtime_context().get_actor_id() or "no actor"
