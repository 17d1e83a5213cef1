"""Make ready what classifies: the resources, the engine that all workers load, and the workers' place."""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from imgcls_ray.config import OnDevice, RunsBlocks
from imgcls_ray.errors import ResourceError
from imgcls_ray.machine import available_cores
from imgcls_ray.models.engines.load import native_bf16_of, preparation_of, prepare_engine
from imgcls_ray.words import counted
from imgcls_ray.workers.local_pool import LocalPool
from imgcls_ray.workers.pool import is_on_cluster, is_on_ray
from imgcls_ray.workers.ray_cluster import check_local, is_cluster_given, plan_workers, show_gpus, start_ray, within
from imgcls_ray.workers.ray_pool import RayPool
from imgcls_ray.workers.ray_precision import precision_of_nodes

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.config import CheckConfig, EngineName, EvaluateConfig, Precision, PredictConfig
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.workers.forks import ForkServer
    from imgcls_ray.workers.pool import Pool

logger = logging.getLogger(__name__)

_LOADS = ", each loads the model"


def check_resources(
    config: OnDevice | RunsBlocks,
    *,
    num_workers: int | None,
    key: str = "num_workers",
    num_gpus: int = 0,
    some_gpus: str = "",
) -> None:
    """Refuse what cannot run, before anything is started.

    Args:
        config: of the job.
        num_workers: that many CPUs are needed; one, if none is said.
        key: of the configuration that says so.
        num_gpus: how many GPUs; 0 for those that ``device`` means.
        some_gpus: how this job is told to take so many GPUs of a cluster, with ``{}`` for the number.

    Raises:
        ResourceError: with the numbers.
    """
    gpu_ids = config.gpu_ids if isinstance(config, OnDevice) else ()
    if not (is_on_cluster(config) if isinstance(config, RunsBlocks) else is_cluster_given()):
        check_local(num_workers or 1, uses_gpus=config.uses_gpus, num_gpus=num_gpus, gpu_ids=gpu_ids, key=key)
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
    _tell_of_start(pool.plan.num_cpu_workers + pool.plan.num_gpu_workers, _LOADS, on_ray=True)
    return pool


def start_locally(
    config: EvaluateConfig | PredictConfig,
    local: LocalPool,
    folder: ModelFolder,
    *,
    embedding: bool = False,
    num_workers: int | None = None,
) -> LocalPool:
    """As ``start_classifiers``, on the local pool, of which so many workers will be needed, or all."""
    if _preparation(folder, config.engine, "cpu", embedding):
        local.call(partial(prepare_engine, folder, config.engine, "cpu", embedding))
    _tell_of_start(num_workers or local.plan.num_cpu_workers, _LOADS, on_ray=False)
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
        prepared = None
        if _preparation(folder, config.engine, device, embedding):
            prepared = beside.submit(prepare_engine, folder, config.engine, device, embedding)
        if config.gpu_ids:
            show_gpus(config.gpu_ids)
        start_ray(uses_gpus=config.uses_gpus)
        if prepared is not None:
            prepared.result()
    num_gpus = num_gpus or len(config.gpu_ids)
    least, most = config.worker_limits
    return RayPool(
        plan_workers(
            config.num_workers,
            num_gpus or (None if config.uses_gpus else 0),
            min_workers=least,
            max_workers=most,
        )
    )


def _preparation(folder: ModelFolder, engine: EngineName, device: str, embedding: bool) -> bool:
    """Whether the engine has to be prepared; what takes long is told."""
    preparation = preparation_of(folder, engine, device, embedding)
    if preparation == "conversion":
        logger.info("%s: converting the network once, about 15 s; later commands use the converted one", folder.path)
    return preparation is not None


def _tell_of_start(num_workers: int, what_they_do: str, *, on_ray: bool) -> None:
    workers = (
        f"{counted(num_workers, 'worker')} on Ray"
        if on_ray
        else f"{counted(num_workers, 'process', 'processes')} on this machine"
    )
    logger.info("starting %s%s", workers, what_they_do)
