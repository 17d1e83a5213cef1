"""Blocks of work on actors through Ray Data: schedule, stream, retry, and outlive the nodes it loses.

What a lost node costs are the blocks that it had in work. On CPUs Ray sees to that: it restarts the dead node's actors
on another node as soon as a CPU is free, and gives them their blocks again; at the end of a run, idle actors do copies
of these blocks instead. With GPUs it cannot:
decoded blocks lie in the memory of the node that decoded them, and when that dies the GPU actors wait for pixels that
only a restarted decoder can make again, while the decoders that live hold every CPU and wait for the GPU actors. There
a death ends the attempt, and another one does what is left.
"""

from __future__ import annotations

import time
import warnings
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from imgcls_ray.workers.board import Board
from imgcls_ray.workers.ray_attempts import outlive_deaths
from imgcls_ray.workers.ray_data import set_up_ray_data
from imgcls_ray.workers.ray_failures import causes_told, with_causes
from imgcls_ray.workers.ray_nodes import ask_for_no_nodes, live_nodes, new_nodes_used_soon
from imgcls_ray.workers.ray_worker import (
    NEEDLESS,
    RayBlockClassifier,
    RayBlockDecoder,
    RayBlockWorker,
    as_task,
    from_task,
    name_of_copy,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from ray.data import Dataset

    from imgcls_ray.workers.board import Stage
    from imgcls_ray.workers.plan import WorkerPlan
    from imgcls_ray.workers.worker import Block, Work

# The board bounds how often a block may end its worker, and more exactly: this is for deaths before a block is begun,
# and leaves room for the tries that fail in a row while a lost node is not known to be lost.
_MAX_TASK_RETRIES = 100
_BLOCKS_IN_HAND = 2
"""Of one actor: one computes, one waits for storage. More would only be more to do again after a death."""
# A block costs the driver some kilobytes beside its content: a long run goes in waves.
_BLOCKS_PER_WAVE = 2048
_BYTES_PER_WAVE = 32 * 2**20
"""Each block is there twice: see ``_dataset_of``."""
_GROUPS_OF_COPIES = 128
_LOOK_EVERY_S = 0.2
# Counting lists the notes of all workers in the table of the head node.
_COUNT_EVERY_S = 5.0


class Joined:
    """How many workers on CPUs an attempt has had at most. The driver counts them now and then, as blocks come back."""

    def __init__(self) -> None:
        self.most = 0
        self._next_count = 0.0

    def count(self, board: Board, stage: Stage) -> None:
        if time.monotonic() >= self._next_count:
            self.most = max(self.most, board.num_joined(stage))
            self._next_count = time.monotonic() + _COUNT_EVERY_S


@dataclass(frozen=True)
class RayPool:
    """Actors on the running Ray, which every run of blocks starts anew."""

    start: WorkerPlan
    gpu_device: str = "cuda"
    """Of a GPU actor: tests use Ray's logical GPUs with ``cpu``."""
    board: Board = field(default_factory=Board)
    joined: Joined = field(default_factory=Joined)

    @property
    def plan(self) -> WorkerPlan:
        """The workers, with those that have joined during the run."""
        return replace(self.start, num_cpu_workers=max(self.start.num_cpu_workers, self.joined.most))

    def run(
        self, blocks: Iterable[Block], make_work: Callable[..., Work[Any, Any]], *, what_now: str = ""
    ) -> Iterator[Block]:
        """Run blocks; as ``Pool.run``."""
        return run_blocks(
            blocks,
            make_work,
            self.start,
            self.board,
            joined=self.joined,
            gpu_device=self.gpu_device,
            what_now=what_now,
        )

    def stop(self) -> None:
        """Begin nothing more; as ``Pool.stop``."""
        self.board.stop()


def run_blocks(
    blocks: Iterable[Block],
    make_work: Callable[..., Work[Any, Any]],
    workers: WorkerPlan,
    board: Board,
    *,
    joined: Joined,
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
        joined: counts the workers of an elastic pool.
        gpu_device: of a GPU actor's classifier.
        what_now: for people, after why a worker failed.

    Raises:
        ImgclsError: a worker failed for good.
    """
    if workers.elastic is not None and workers.elastic.max_workers is None:
        ask_for_no_nodes()
    set_up_ray_data()

    def attempt(left: Sequence[Block]) -> Generator[Block, None, None]:
        return _attempt(left, make_work, workers, board, joined, gpu_device)

    waves = _waves(blocks)
    with new_nodes_used_soon() if workers.elastic else nullcontext():
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
    joined: Joined,
    gpu_device: str,
) -> Generator[Block, None, None]:
    """Run blocks with new actors. A block may come back twice."""
    sizes = _pool_sizes(workers, len(blocks))
    board.begin_attempt()
    copies = _groups_of_copies(blocks, workers, joined.most) if sizes["max_size"] != 1 else []
    dataset = _dataset_of(blocks, copies)
    stage: Stage = "label"
    if num_gpu_actors := workers.num_gpu_workers:
        stage = "classify"
        decode, classify = (partial(make_work, device=device) for device in (None, gpu_device))
        alone: dict[str, Any] = {"outlives_deaths": False}
        dataset = _map(dataset, RayBlockDecoder, decode, board, sizes, **alone)
        dataset = _map(dataset, RayBlockClassifier, classify, board, {"size": num_gpu_actors}, on_gpu=True, **alone)
    else:
        dataset = _map(
            dataset,
            RayBlockWorker,
            make_work,
            board,
            sizes,
            num_cpus=workers.cores_per_worker,
            memory=workers.bytes_per_worker,
        )
    batches: Any = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    # Where not all batches are read, closing ends the actors.
    with closing(batches):
        for block in _until_stopped(chain.from_iterable(map(from_task, batches)), board):
            if copies:
                # By the driver: what is done where a node dies may not come back, and then a copy has to bring it.
                board.note_done(stage, block.name)
            if workers.elastic is not None:
                joined.count(board, "decode" if num_gpu_actors else "label")
            yield block


def _pool_sizes(workers: WorkerPlan, num_blocks: int) -> dict[str, int | None]:
    """The sizes of a pool of CPU actors, as ``ActorPoolStrategy`` takes them: no more than there are blocks."""
    start, elastic = min(workers.num_cpu_workers, num_blocks), workers.elastic
    if elastic is None:
        return {"min_size": start, "max_size": start, "initial_size": start}
    most = min(elastic.max_workers or num_blocks, num_blocks)
    return {"min_size": min(elastic.min_workers, start), "max_size": most, "initial_size": start}


def _until_stopped(tasks: Iterator[tuple[Block, bool]], board: Board) -> Iterator[Block]:
    """Leave out skipped blocks, and end when a stop has left no block in the hand of a live worker.

    The thousands of skipped blocks behind them need not be waited for, and neither need what a dead node had in hand.

    Args:
        tasks: blocks that come back, and whether they are copies.
        board: where workers note what they have in hand.
    """
    is_stopped, next_look = False, 0.0
    for block, is_copy in tasks:
        is_needless = NEEDLESS in block.skipped_by
        if not block.skipped_by:
            # It is durable, whoever else still has it in hand.
            board.leave(block.name)
            board.leave(name_of_copy(block.name))
            yield block
        elif not is_needless:
            # The other one of the two may have been begun.
            board.leave(name_of_copy(block.name) if is_copy else block.name)
        is_stopped = is_stopped or bool(block.skipped_by and not is_needless)
        if is_stopped and time.monotonic() >= next_look:
            if not _is_in_hand(board):
                return
            next_look = time.monotonic() + _LOOK_EVERY_S


def _is_in_hand(board: Board) -> bool:
    alive = live_nodes()
    return any(node in alive for node in board.nodes_at_work())


def _map(
    dataset: Dataset,
    worker: type[RayBlockWorker[Any, Any]],
    make_work: Callable[[], Work[Any, Any]],
    board: Board,
    sizes: Mapping[str, int | None],
    *,
    num_cpus: int = 1,
    memory: int | None = None,
    on_gpu: bool = False,
    outlives_deaths: bool = True,
) -> Dataset:
    """Hand each block of a dataset to an actor of a pool of these sizes, with bounds on restarts and retries."""
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
                **sizes,
                max_concurrent_calls_per_actor=_BLOCKS_IN_HAND,
                max_tasks_in_flight_per_actor=_BLOCKS_IN_HAND,
                enable_true_multi_threading=True,
            ),
            max_restarts=-1 if outlives_deaths else 0,
            max_task_retries=_MAX_TASK_RETRIES if outlives_deaths else 0,
        )


def _groups_of_copies(blocks: Sequence[Block], workers: WorkerPlan, num_joined: int = 0) -> list[Sequence[Block]]:
    """Copies of all blocks in groups, each of which is one task of Ray Data's: most are needless, and then cost little.

    A group comes back when its last copy is done. So the last blocks, as many as may be in hand at once, are in groups
    of their own, as far as the number of workers is known. They come first, because they are most likely to be in hand
    when all are given.

    Args:
        blocks: of one attempt.
        workers: that it begins with.
        num_joined: how many there were until now.
    """
    largest = workers.elastic.max_workers if workers.elastic else None
    num_in_hand = _BLOCKS_IN_HAND * max(workers.num_cpu_workers, num_joined, largest or 0)
    # Decoded blocks are large: no two of them wait for each other.
    most = len(blocks) if workers.num_gpu_workers else max(_GROUPS_OF_COPIES, num_in_hand)
    last_first = blocks[::-1]
    return [last_first[start::most] for start in range(min(most, len(blocks)))]


def _dataset_of(blocks: Iterable[Block], copies: Iterable[Sequence[Block]]) -> Dataset:
    """A dataset of one row for each block: Ray Data hands it to an actor on its own.

    Copies come behind all blocks, so only actors for which no block is left get any. From memory, because a read task
    would want a CPU, and the actors hold them all.
    """
    import ray

    tasks = [as_task(block, is_copy=False) for block in blocks]
    tasks += [as_task(*group, is_copy=True) for group in copies]
    dataset: Dataset = ray.data.from_blocks(tasks)
    return dataset


def worker_name() -> str:
    """The name of the actor that this process is."""
    import ray

    return ray.get_runtime_context().get_actor_id() or "no actor"
