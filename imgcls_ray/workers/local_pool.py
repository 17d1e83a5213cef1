"""Blocks of work on processes of this machine: hand out, stream, and outlive the processes that die.

The processes are forks of one that has loaded what they need, while the command still plans: they are there in
milliseconds, also in the place of one that died, and share what was loaded. All of them end with the command, however
that ends.
"""

from __future__ import annotations

import json
import logging
import pickle
import selectors
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from imgcls_ray.errors import JobFailedError
from imgcls_ray.workers import local_worker
from imgcls_ray.workers.board import LocalBoard
from imgcls_ray.workers.child import ChildDiedError
from imgcls_ray.workers.forks import ForkServer, ForkServerDiedError
from imgcls_ray.workers.local_process import WorkerProcess
from imgcls_ray.workers.local_worker import BLOCKS_IN_HAND, MAX_WORDS_BYTES, read_failure
from imgcls_ray.workers.packing import from_ipc
from imgcls_ray.workers.plan import WorkerPlan
from imgcls_ray.workers.worker import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from imgcls_ray.workers.forks import Fork
    from imgcls_ray.workers.worker import Work

logger = logging.getLogger(__name__)

# Of a network's conversion on a busy machine.
_CALL_TIMEOUT_S = 3600.0
# A block is given up when it has ended five workers. This is for workers that end before they begin one, as those do
# for whose model there is no memory: so many for each worker, without a block done in between.
_MAX_DEATHS_IN_VAIN = 5


class LocalPool:
    """Workers of one command on this machine. Use as a context manager: at its end the processes are gone.

    Args:
        module, function: what the processes are forked from: it calls ``serve_workers``.
        num_workers: how many there are at most.
        server: the process that they are forked from, if it runs already.
    """

    def __init__(self, module: str, function: str, num_workers: int, server: ForkServer | None = None) -> None:
        self._module, self._function = module, function
        self._server = server
        self.board = LocalBoard()
        self.plan = WorkerPlan(num_workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()

    def load(self) -> None:
        """Begin to load what workers need; whoever needs them waits for it."""
        if self._server is not None and self._server.is_gone:
            self._server.close()
            self._server = None
        if self._server is None:
            self._server = ForkServer(self._module, self._function, keeps_memory=False)

    def fork(self) -> Fork:
        """A process that waits to be told what to do.

        Raises:
            ForkServerDiedError: what it would be forked from is gone; the next call tries again.
            OSError: the system cannot start another process.
        """
        self.load()
        assert self._server is not None
        return self._server.fork()

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in a process of its own, which gives its memory back at its end.

        Returns:
            What the function returns, as JSON knows it.

        Raises:
            ImgclsError: that of the function.
        """
        try:
            fork = self.fork()
            try:
                message = local_worker.CALL + pickle.dumps(function)
                told = fork.ask(message, timeout_s=_CALL_TIMEOUT_S, max_bytes=MAX_WORDS_BYTES)
            finally:
                with suppress(ForkServerDiedError):
                    fork.end()
        except (ChildDiedError, ForkServerDiedError, OSError) as death:
            raise JobFailedError(
                f"a process that was to get the workers ready ended: {words_of_death(death)}"
            ) from death
        if told[:1] == local_worker.FAILED:
            raise read_failure(told[1:])
        return json.loads(told[1:])

    def run(
        self, blocks: Iterable[Block], make_work: Callable[[], Work[Any, Any]], *, what_now: str = ""
    ) -> Iterator[Block]:
        """Run blocks; as ``Pool.run``."""
        return _Run(self, blocks, make_work, what_now).results()

    def stop(self) -> None:
        """Begin nothing more; as ``Pool.stop``."""
        self.board.stop()


class _Run:
    """Some blocks on the processes of a pool."""

    def __init__(
        self, pool: LocalPool, blocks: Iterable[Block], make_work: Callable[[], Work[Any, Any]], what_now: str
    ) -> None:
        self._pool, self._board, self._what_now = pool, pool.board, what_now
        self._blocks = iter(blocks)
        self._waiting: deque[Block] = deque()
        self._setup = local_worker.WORK + pickle.dumps(make_work)
        self._workers: list[WorkerProcess] = []
        self._num_in_vain = self._num_held_back = 0
        self._selector = selectors.DefaultSelector()

    def results(self) -> Iterator[Block]:
        with self._selector:
            self._selector.register(self._board.notice, selectors.EVENT_READ, None)
            try:
                self._go_on()
                while self._is_working():
                    for key, events in self._selector.select():
                        if key.data is None:
                            self._tell_stop()
                        else:
                            yield from self._attend(key.data, events)
                    self._go_on()
            finally:
                self._end_workers()

    def _is_working(self) -> bool:
        return any(worker.in_hand for worker in self._workers) or (bool(self._waiting) and not self._board.is_stopped())

    def _go_on(self) -> None:
        """Have as many workers as there is work for, and two blocks in the hand of each."""
        num_workers = self._pool.plan.num_cpu_workers
        if not self._board.is_stopped():
            self._look_ahead()
            num_left = len(self._waiting) + sum(bool(worker.in_hand) for worker in self._workers)
            for _ in range(min(num_workers - self._num_held_back, num_left) - len(self._workers)):
                self._add_worker()
            while num_left and not self._workers:
                self._add_worker()
            while self._waiting and (worker := self._whose_turn()) is not None:
                block = self._waiting.popleft()
                worker.give(block, self._board.num_deaths("label", block.name))
                self._look_ahead()
        for worker in self._workers:
            self._selector.modify(worker.fork.connection, worker.events, worker)

    def _look_ahead(self) -> None:
        """Have one block more at hand than there are workers; fewer are the last ones."""
        self._waiting.extend(islice(self._blocks, max(0, self._pool.plan.num_cpu_workers + 1 - len(self._waiting))))

    def _whose_turn(self) -> WorkerProcess | None:
        """Who gets the next block: whoever has none.

        A second one, which a worker reads while it computes the first, is none of the last ones: these are for whoever
        is idle first.
        """
        free = [worker for worker in self._workers if worker.is_ready and len(worker.in_hand) < BLOCKS_IN_HAND]
        worker = min(free, key=lambda worker: len(worker.in_hand), default=None)
        num_workers = self._pool.plan.num_cpu_workers
        num_kept = num_workers if num_workers > 1 else 0
        return None if worker is None or (worker.in_hand and len(self._waiting) <= num_kept) else worker

    def _add_worker(self) -> None:
        try:
            worker = WorkerProcess(self._pool.fork(), self._setup)
        except (ForkServerDiedError, OSError) as error:
            self._count_in_vain(error)
            return
        self._workers.append(worker)
        self._selector.register(worker.fork.connection, worker.events, worker)

    def _count_in_vain(self, death: Exception) -> None:
        self._num_in_vain += 1
        if self._num_in_vain > _MAX_DEATHS_IN_VAIN * self._pool.plan.num_cpu_workers:
            raise JobFailedError(
                f"a worker failed for good: {self._num_in_vain} processes ended before they began anything, the last "
                f"one with {words_of_death(death)}{self._what_now}"
            ) from death

    def _attend(self, worker: WorkerProcess, events: int) -> Iterator[Block]:
        if events & selectors.EVENT_WRITE:
            worker.flush()
        if not events & selectors.EVENT_READ:
            return
        is_there = worker.receive()
        for kind, content in worker.messages():
            if kind == local_worker.DONE:
                block = Block.from_table(from_ipc(content))
                worker.in_hand.pop(block.number)
                self._num_in_vain = self._num_held_back = 0
                if not block.skipped_by:
                    yield block
            elif kind == local_worker.FAILED:
                raise read_failure(content, "a worker failed for good: ", self._what_now)
            else:
                self._note(worker, kind, content)
        if not is_there:
            self._bury(worker)

    def _note(self, worker: WorkerProcess, kind: bytes, content: bytes) -> None:
        if kind == local_worker.READY:
            worker.is_ready = True
            return
        stage, unit = json.loads(content)
        if kind == local_worker.BEGUN:
            self._board.begin(stage, unit)
            worker.begun.add((stage, unit))
        else:
            self._board.end(stage, unit)
            worker.begun.discard((stage, unit))

    def _bury(self, worker: WorkerProcess) -> None:
        """Have what a dead worker had in hand done by others."""
        self._selector.unregister(worker.fork.connection)
        self._workers.remove(worker)
        try:
            death: Exception = ChildDiedError(worker.fork.end())
        except ForkServerDiedError as error:
            # It went with all others.
            death = error
            for stage, unit in worker.begun:
                self._board.take_back(stage, unit)
        if self._board.is_stopped():
            return
        titles = ", ".join(block.title for block in worker.in_hand.values())
        logger.warning("a worker process ended (%s)%s", words_of_death(death), titles and f"; done again: {titles}")
        self._waiting.extendleft(reversed(worker.in_hand.values()))
        if isinstance(death, ForkServerDiedError):
            self._count_in_vain(death)
        elif not worker.begun:
            # Where there is no room for as many, another one would end the same way, again and again.
            self._num_held_back += 1
            self._count_in_vain(death)

    def _tell_stop(self) -> None:
        self._board.notice.recv(1)
        for worker in self._workers:
            worker.send(local_worker.STOP)

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.fork.interrupt()
        for worker in self._workers:
            with suppress(ForkServerDiedError):
                worker.fork.end()
        self._board.clear()


def words_of_death(death: Exception) -> str:
    """What a process of a pool ended with: a ``ChildDiedError``, ``ForkServerDiedError`` or ``OSError``."""
    if isinstance(death, ForkServerDiedError):
        return "the end of the process that it was forked from"
    return str(death)
