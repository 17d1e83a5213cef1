"""Run the training on Ray Train, and pass on its events until it ends."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from imgcls_ray.errors import ResourceError, StoppedError
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.train.events import WorkersLost, read_event, send
from imgcls_ray.train.meeting import torch_config
from imgcls_ray.train.task import Outcome, make_task
from imgcls_ray.train.worker import train_worker
from imgcls_ray.workers.board import Board
from imgcls_ray.workers.ray_cluster import show_gpus, start_ray
from imgcls_ray.workers.ray_failures import causes_told
from imgcls_ray.workers.ray_start import cluster_address
from imgcls_ray.workers.stopping import GracefulStop

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from ray import ObjectRef
    from ray.train import UserCallback
    from ray.train.v2._internal.execution.context import TrainRunContext

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.entries import Entries
    from imgcls_ray.train.recipe import Recipe
    from imgcls_ray.train.reporter import Reporter
    from imgcls_ray.train.state import TrainState
    from imgcls_ray.train.task import TrainTask

_POLL_S = 0.3


def train_on_ray(
    config: TrainConfig, entries: Entries, state: TrainState, recipe: Recipe, reporter: Reporter
) -> Outcome:
    """Train on the cluster of ``RAY_ADDRESS``, or on a Ray that is started on this machine.

    Returns:
        How the run ended, as the workers returned it.

    Raises:
        ResourceError: the run needs more CPUs or GPUs than there are.
        StoppedError: a second signal came, or ``grace_s`` ended after the first.
        ImgclsError: workers failed more often than ``max_failures``; it has the last failure.
    """
    import ray

    if config.gpu_ids:
        show_gpus(config.gpu_ids)
    start_ray(uses_gpus=config.uses_gpus)
    num_workers, cpus_per_worker = _plan(config)
    board = Board()
    task = make_task(config, state, recipe, cpus_per_worker=cpus_per_worker)
    fit = _Fit(task, ray.put(entries.tables), board, num_workers)
    # Signals reach the main thread, and Ray Train would take them for itself there.
    thread = threading.Thread(target=fit.run, name="ray-train", daemon=True)
    try:
        with GracefulStop(config.grace_s, board.stop) as stop:
            thread.start()
            while thread.is_alive():
                thread.join(_POLL_S)
                for message in board.collect():
                    reporter.take(read_event(message))
    except KeyboardInterrupt as error:
        raise StoppedError(
            f"stopped at once; the same command goes on from the last saved state in {config.output}"
        ) from error
    if fit.error is not None and stop.requested:
        # A Ctrl-C at a terminal, and a service manager, stop Ray's processes too: what breaks then is the stop.
        raise StoppedError(
            f"stopped; the same command goes on from the last saved state in {config.output}"
        ) from fit.error
    board.clear()
    with causes_told(f"; the same command goes on from the last saved state in {config.output}"):
        return next(fit.outcomes())


class _Fit:
    """Ray Train's part, in a thread."""

    def __init__(self, task: TrainTask, tables: ObjectRef[dict[str, pa.Table]], board: Board, num_workers: int) -> None:
        self._task, self._tables, self._board, self._num_workers = task, tables, board, num_workers
        self.error: BaseException | None = None
        self._outcome: Outcome | None = None

    def run(self) -> None:
        # Whatever Ray raises is told in the main thread.
        try:
            self._outcome = self._fit()
        except BaseException as error:
            self.error = error

    def outcomes(self) -> Iterator[Outcome]:
        """The one outcome, or the error."""
        if self.error is not None:
            failures = getattr(self.error, "worker_failures", None)
            # What the workers died of says more than that they did.
            raise next(iter(failures.values())) if failures else self.error
        assert self._outcome is not None
        yield self._outcome

    def _fit(self) -> Outcome:
        # Read when the workers are set up; paths are absolute, and Ray's folder is not ours.
        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
        if cluster_address() is None:
            # An actor that imports torch for two seconds, to look for nodes that are taken away.
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        # Not of `ray.train`, which is these, too: type checkers take its names for those of Train's first version.
        from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2.api.result import Result
        from ray.train.v2.torch.torch_trainer import TorchTrainer

        config, task = self._task.config, self._task
        resources: dict[str, float] = {"CPU": task.cpus_per_worker}
        if config.uses_gpus:
            resources["GPU"] = 1
        num_workers: int | tuple[int, int] = self._num_workers
        if config.min_workers is not None and config.min_workers < self._num_workers:
            num_workers = (config.min_workers, self._num_workers)
        with scratch_folder("ray-train") as folder:
            trainer = TorchTrainer(
                train_worker,
                train_loop_config={"task": task, "tables": self._tables, "board": self._board},
                torch_config=torch_config(uses_gpus=config.uses_gpus),
                scaling_config=ScalingConfig(
                    num_workers=num_workers,
                    use_gpu=config.uses_gpus,
                    resources_per_worker=resources,
                ),
                run_config=RunConfig(
                    # Ray's own account of the run; ours is in the output.
                    storage_path=str(folder),
                    failure_config=FailureConfig(max_failures=config.max_failures),
                    callbacks=[_tell_of_losses(self._board)],
                ),
            )
            result = trainer.fit()
        assert isinstance(result, Result), result
        assert isinstance(result.return_value, Outcome), result.return_value
        return result.return_value


def _tell_of_losses(board: Board) -> UserCallback:
    """Ray Train's callback: it runs beside the workers, when some of them are lost."""
    from ray.train import UserCallback

    class Losses(UserCallback):
        def after_exception(self, run_context: TrainRunContext, worker_exceptions: dict[int, Exception]) -> None:
            send(board, WorkersLost({str(rank): str(error) for rank, error in worker_exceptions.items()}))

    return Losses()


def _plan(config: TrainConfig) -> tuple[int, int]:
    """Workers, and the cores of each, for the Ray that runs."""
    import ray

    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    num_workers = config.num_workers or len(config.gpu_ids) or (gpus if config.uses_gpus else 1)
    if not num_workers:
        raise ResourceError(
            "device=gpu: the Ray cluster has no GPU now; give num_workers if it can grow, or device=cpu"
        )
    cpus_per_worker = config.cpus_per_worker or max(cpus // num_workers, 1)
    may_grow = cluster_address() is not None
    if (num_workers * cpus_per_worker > cpus or (config.uses_gpus and num_workers > gpus)) and not may_grow:
        raise ResourceError(
            f"the run needs {num_workers * cpus_per_worker} CPUs ({num_workers} workers of {cpus_per_worker}) and "
            f"{num_workers if config.uses_gpus else 0} GPUs, this machine has {cpus} CPUs and {gpus} GPUs; lower "
            "num_workers or cpus_per_worker"
        )
    return num_workers, cpus_per_worker
