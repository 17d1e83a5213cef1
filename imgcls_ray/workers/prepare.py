"""Make ready what classifies: the resources, the engine that all workers load, and the workers' place."""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from imgcls_ray.config import OnDevice, RunsBlocks
from imgcls_ray.errors import ResourceError
from imgcls_ray.machine import available_cores, available_memory
from imgcls_ray.models.engines.load import native_bf16_of, preparation_of, prepare_engine
from imgcls_ray.models.engines.memory import known_memory, measure_memory
from imgcls_ray.words import counted
from imgcls_ray.workers.local_pool import LocalPool
from imgcls_ray.workers.pool import is_on_cluster, is_on_ray
from imgcls_ray.workers.ray_cluster import (
    WorkerPlan,
    check_local,
    fit_plan,
    is_cluster_given,
    plan_workers,
    show_gpus,
    start_ray,
    within,
)
from imgcls_ray.workers.ray_pool import RayPool
from imgcls_ray.workers.ray_precision import precision_of_nodes
from imgcls_ray.workers.sizing import ACTOR_BYTES, LOCAL_BYTES, Room, WorkerMemory, check_fits

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.config import CheckConfig, EvaluateConfig, Precision, PredictConfig
    from imgcls_ray.models.engines.memory import NetworkMemory
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.workers.forks import ForkServer
    from imgcls_ray.workers.pool import Pool

logger = logging.getLogger(__name__)

# Of a machine's memory, for the command itself and the files that are being read.
_KEPT_FREE_BYTES = 512 * 2**20
_LOADS = ", each loads the model"


def check_resources(
    config: OnDevice | RunsBlocks,
    *,
    num_workers: int | None,
    key: str = "num_workers",
    cores_per_worker: int | None = None,
    num_gpus: int = 0,
    some_gpus: str = "",
) -> None:
    """Refuse what cannot run, before anything is started.

    Args:
        config: of the job.
        num_workers: that many are needed; one, if none is said.
        key: of the configuration that says so.
        cores_per_worker: CPUs of each; one, if none is said.
        num_gpus: how many GPUs; 0 for those that ``device`` means.
        some_gpus: how this job is told to take so many GPUs of a cluster, with ``{}`` for the number.

    Raises:
        ResourceError: with the numbers.
    """
    gpu_ids = config.gpu_ids if isinstance(config, OnDevice) else ()
    if not (is_on_cluster(config) if isinstance(config, RunsBlocks) else is_cluster_given()):
        check_local(
            num_workers or 1,
            key=key,
            cores_per_worker=cores_per_worker or 1,
            uses_gpus=config.uses_gpus,
            num_gpus=num_gpus,
            gpu_ids=gpu_ids,
        )
    elif isinstance(config, OnDevice) and gpu_ids:
        some = f", or {some_gpus.format(len(gpu_ids))}" if some_gpus else ""
        raise ResourceError(
            f"device={config.device} names GPUs of one machine, and a Ray cluster chooses among its own; "
            f"give device=gpu for all of them{some}"
        )


def local_pool(
    config: CheckConfig | EvaluateConfig | PredictConfig,
    serve: Callable[[], None],
    *,
    is_needed: bool = True,
    server: ForkServer | None = None,
) -> LocalPool:
    """The processes of this machine that a job may have; if it runs on them, they begin to load what they need.

    Args:
        config: of the job.
        serve: what the processes are forked from runs this, a function of a module that imports what they need.
        is_needed: whether it will work at all.
        server: what they are forked from, if it loads already.
    """
    num_workers = config.num_workers or within(available_cores(), *config.worker_limits)
    pool = LocalPool(serve.__module__, serve.__name__, num_workers, server)
    if is_needed and not is_on_ray(config):
        pool.load()
    return pool


def start_workers(config: CheckConfig, local: LocalPool) -> Pool:
    """Choose workers without a model: on the local pool, or on a Ray that is started or joined for them.

    Args:
        config: of the job.
        local: as ``local_pool`` made it.

    Raises:
        ResourceError: more workers than can run, with the numbers.
    """
    pool: Pool = local
    if is_on_ray(config):
        start_ray(uses_gpus=False)
        pool = RayPool(plan_workers(config.num_workers, 0))
    _tell_of_start(pool.plan.num_cpu_workers, "", on_ray=is_on_ray(config))
    return pool


def start_classifiers(
    config: EvaluateConfig | PredictConfig,
    local: LocalPool,
    folder: ModelFolder,
    *,
    embedding: bool = False,
    num_gpus: int = 0,
) -> Pool:
    """Prepare the engine and choose workers, as ``start_workers``.

    Args:
        config: of the job.
        local: as ``local_pool`` made it.
        folder: of the model.
        embedding: the model gives these, too.
        num_gpus: how many GPUs; 0 for those that ``device`` means.

    Raises:
        ResourceError: more workers than can run, with the numbers.
    """
    if not is_on_ray(config):
        return start_locally(config, local, folder, embedding=embedding)
    pool = _start_on_ray(config, folder, embedding=embedding, num_gpus=num_gpus)
    num_workers = pool.plan.num_cpu_workers + pool.plan.num_gpu_workers
    _tell_of_start(num_workers, _LOADS, cores=pool.plan.cores_per_worker, on_ray=True)
    return pool


def start_locally(
    config: EvaluateConfig | PredictConfig,
    local: LocalPool,
    folder: ModelFolder,
    *,
    embedding: bool = False,
    is_alone: bool = False,
) -> LocalPool:
    """As ``start_classifiers``, on the local pool, of which all workers will be needed, or one with all cores."""
    network = _Network(folder, config, embedding)
    network.tell_of_preparation("cpu")
    if network.is_to_prepare("cpu"):
        local.call(network.prepare_for_cpus)
    num_workers = 1 if is_alone else local.plan.num_cpu_workers
    memory, num_left = network.memory(), available_memory()
    if memory is not None and num_left is not None:
        # The file of the network is mapped by all workers, and in memory once.
        num_left -= _KEPT_FREE_BYTES + folder.num_bytes
        rooms = [Room(available_cores(), max(0, num_left))]
        needed = WorkerMemory(memory, LOCAL_BYTES)
        if is_alone:
            check_fits(rooms, needed, 1, 1, place="this machine")
        else:
            local.plan = fit_plan(
                local.plan, rooms, needed, config.num_workers, config.cores_per_worker, place="this machine"
            )
            if config.num_workers is None:
                fitting = within(local.plan.num_cpu_workers, *config.worker_limits)
                local.plan = replace(local.plan, num_cpu_workers=fitting)
            num_workers = local.plan.num_cpu_workers
    elif config.cores_per_worker is not None and not is_alone:
        cores = config.cores_per_worker
        num_workers = config.num_workers or max(1, available_cores() // cores)
        local.plan = WorkerPlan(num_workers, cores_per_worker=cores)
    _tell_of_start(num_workers, _LOADS, cores=1 if is_alone else local.plan.cores_per_worker, on_ray=False)
    return local


def shared_precision(config: EvaluateConfig | PredictConfig, folder: ModelFolder, pool: Pool) -> Precision:
    """The configuration's precision; ``auto`` as all nodes of a cluster can have it, so that no two rows differ by it.

    On one machine, and on GPUs, ``auto`` is the same for every worker anyway.
    """
    if config.precision != "auto" or not isinstance(pool, RayPool) or pool.plan.num_gpu_workers:
        return config.precision
    return precision_of_nodes(native_bf16_of(folder, config.engine))


def _start_on_ray(
    config: EvaluateConfig | PredictConfig, folder: ModelFolder, *, embedding: bool, num_gpus: int
) -> RayPool:
    # Converting a network takes as long as Ray's start and most of a gigabyte: another process beside it does that, and
    # gives the memory back.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as beside:
        device = "cuda" if config.uses_gpus else "cpu"
        network = _Network(folder, config, embedding)
        network.tell_of_preparation(device)
        prepared = None
        if network.is_to_prepare(device):
            # With GPUs nothing has to be prepared.
            prepared = beside.submit(network.prepare_for_cpus)
        if config.gpu_ids:
            show_gpus(config.gpu_ids)
        start_ray(uses_gpus=config.uses_gpus)
        if prepared is not None:
            prepared.result()
    least, most = config.worker_limits
    if config.uses_gpus:
        num_gpus = num_gpus or len(config.gpu_ids)
        return RayPool(plan_workers(config.num_workers, num_gpus or None, min_workers=least, max_workers=most))
    # The network of a node may differ from this machine's in precision, and hardly in memory.
    memory = network.memory()
    return RayPool(
        plan_workers(
            config.num_workers,
            num_gpus,
            min_workers=least,
            max_workers=most,
            cores_per_worker=config.cores_per_worker,
            memory=None if memory is None else WorkerMemory(memory, ACTOR_BYTES),
        )
    )


@dataclass(frozen=True)
class _Network:
    """What workers on CPUs load, and what has to be done once before they do."""

    folder: ModelFolder
    config: EvaluateConfig | PredictConfig
    embedding: bool

    @property
    def _load(self) -> dict[str, Any]:
        config = self.config
        return {
            "engine": config.engine,
            "precision": config.precision,
            "batch_size": config.batch_size,
            "embedding": self.embedding,
        }

    def memory(self) -> NetworkMemory | None:
        return known_memory(self.folder, **self._load)

    def is_to_prepare(self, device: str) -> bool:
        if preparation_of(self.folder, self.config.engine, device, self.embedding) is not None:
            return True
        return device == "cpu" and self.memory() is None

    def tell_of_preparation(self, device: str) -> None:
        """Log what takes long."""
        if preparation_of(self.folder, self.config.engine, device, self.embedding) == "conversion":
            logger.info(
                "%s: converting the network once, about 15 s; later commands use the converted one", self.folder.path
            )

    def prepare_for_cpus(self) -> None:
        """For another process to call, which then gives the memory back."""
        prepare_engine(self.folder, self.config.engine, "cpu", self.embedding)
        measure_memory(self.folder, **self._load)


def _tell_of_start(num_workers: int, what_they_do: str, *, cores: int = 1, on_ray: bool) -> None:
    workers = counted(num_workers, "worker") if on_ray else counted(num_workers, "process", "processes")
    of_cores = f" of {cores} cores" if cores > 1 else ""
    logger.info("starting %s%s on %s%s", workers, of_cores, "Ray" if on_ray else "this machine", what_they_do)
