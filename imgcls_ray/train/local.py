"""Train in one process of this machine, pass on its events until it ends, and outlive its deaths.

One worker on CPUs needs no Ray: to start it, Ray Train and their actors took five times as long, because eight
processes import Ray or torch. The process is a fork of one that imports what it needs while the command reads the
dataset, and its loading processes are forks of it.
"""

from __future__ import annotations

import json
import pickle
from contextlib import suppress
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImgclsError, JobFailedError, StoppedError
from imgcls_ray.machine import available_cores
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.train import WORKER
from imgcls_ray.train.entries import write_splits
from imgcls_ray.train.events import WorkersLost, read_event
from imgcls_ray.train.task import Outcome, make_task
from imgcls_ray.workers.child import ChildDiedError, read_message, write_message
from imgcls_ray.workers.forks import ForkServerDiedError
from imgcls_ray.workers.local_pool import LocalPool, words_of_death
from imgcls_ray.workers.local_worker import DONE, FAILED, STOP, read_failure
from imgcls_ray.workers.stopping import GracefulStop

if TYPE_CHECKING:
    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.entries import Entries
    from imgcls_ray.train.recipe import Recipe
    from imgcls_ray.train.reporter import Reporter
    from imgcls_ray.train.state import TrainState
    from imgcls_ray.workers.forks import Fork, ForkServer


def worker_pool(server: ForkServer | None = None) -> LocalPool:
    """Where the worker comes from.

    Args:
        server: what it is forked from, if that loads already.
    """
    return LocalPool(*WORKER, num_workers=1, server=server)


def train_here(
    config: TrainConfig, entries: Entries, state: TrainState, recipe: Recipe, reporter: Reporter, pool: LocalPool
) -> Outcome:
    """Train in one process of this machine, and in another one if it dies.

    Args:
        pool: as ``worker_pool`` made it.

    Returns:
        How the run ended, as the worker returned it.

    Raises:
        StoppedError: a second signal came, or ``grace_s`` ended after the first.
        ImgclsError: the worker failed more often than ``max_failures``, with the last failure; or the command cannot
            report its events.
    """
    cores = config.cpus_per_worker or available_cores()
    # Whoever has read from object storage has threads.
    task = make_task(config, state, recipe, cpus_per_worker=cores, forks_loaders=not is_object(config.output))
    goes_on = f"the same command goes on from the last saved state in {config.output}"
    with scratch_folder("train") as folder:
        run = _LocalRun(pool, pickle.dumps((task, write_splits(entries.tables, folder), folder)), reporter)
        try:
            with GracefulStop(config.grace_s, run.stop) as stop:
                return run.outcome(config.max_failures)
        except KeyboardInterrupt as error:
            raise StoppedError(f"stopped at once; {goes_on}") from error
        except _WorkerFailedError as failed:
            reason = failed.reason
            # A service manager stops all processes of a service: what breaks then is the stop.
            if stop.requested:
                raise StoppedError(f"stopped; {goes_on}") from reason
            raise type(reason)(f"a worker failed for good: {reason}; {goes_on}") from reason


class _WorkerFailedError(Exception):
    """The worker died, or said why it cannot go on. Another worker may succeed; after an error of the command, none."""

    def __init__(self, reason: ImgclsError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _LocalRun:
    """A run in one process after the other."""

    def __init__(self, pool: LocalPool, task: bytes, reporter: Reporter) -> None:
        self._pool, self._task, self._reporter = pool, task, reporter
        self._worker: Fork | None = None

    def stop(self) -> None:
        """Ask the worker for a stop; any thread may."""
        self._pool.stop()
        self._pass_on_stop()

    def outcome(self, max_failures: int) -> Outcome:
        """The outcome of the first process that comes to one.

        Raises:
            _WorkerFailedError: that of the last one of so many and one more.
            ImgclsError: the command's own, of reporting.
        """
        for num_before in range(max_failures + 1):
            try:
                return self._attempt()
            except _WorkerFailedError as error:
                failure = error
            if num_before == max_failures or self._pool.board.is_stopped():
                break
            self._reporter.take(WorkersLost({"0": str(failure)}))
        raise failure

    def _attempt(self) -> Outcome:
        try:
            worker = self._pool.fork()
        except (ForkServerDiedError, OSError) as error:
            failure = JobFailedError(f"its process cannot be started: {words_of_death(error)}")
            raise _WorkerFailedError(failure) from error
        try:
            outcome = self._follow(worker)
        finally:
            self._worker = None
            death = _end(worker)
        if outcome is None:
            raise _WorkerFailedError(JobFailedError(f"its process ended ({words_of_death(death)})"))
        return outcome

    def _follow(self, worker: Fork) -> Outcome | None:
        """Report the worker's events until its outcome; None if it dies before."""
        connection = worker.connection
        with connection.makefile("rb") as answers, connection.makefile("wb") as messages:
            with suppress(BrokenPipeError, ConnectionResetError):  # its death is seen below
                write_message(messages, self._task)
            self._worker = worker
            if self._pool.board.is_stopped():
                self._pass_on_stop()
            with suppress(ConnectionResetError):
                while message := read_message(answers):
                    kind, content = message[:1], message[1:]
                    if kind == DONE:
                        return Outcome(**json.loads(content))
                    if kind == FAILED:
                        raise _WorkerFailedError(read_failure(content))
                    self._reporter.take(read_event(content))
        return None

    def _pass_on_stop(self) -> None:
        if (worker := self._worker) is not None:
            with suppress(OSError):
                worker.connection.send(STOP)


def _end(worker: Fork) -> ChildDiedError | ForkServerDiedError:
    """End a process; what it died of if it was dead."""
    try:
        return ChildDiedError(worker.end())
    except ForkServerDiedError as error:
        return error
