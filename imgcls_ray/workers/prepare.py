"""Make ready what classifies on Ray: the resources, the engine that all workers load, and Ray itself."""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from imgcls_ray.errors import ResourceError
from imgcls_ray.models.engines.load import is_engine_prepared, prepare_engine, tell_of_conversion
from imgcls_ray.words import counted
from imgcls_ray.workers.ray_cluster import WorkerPlan, check_local, is_cluster_given, plan_workers, show_gpus, start_ray

if TYPE_CHECKING:
    from imgcls_ray.config import EvaluateConfig, OnDevice, PredictConfig
    from imgcls_ray.models.folder import ModelFolder

logger = logging.getLogger(__name__)


def check_resources(config: OnDevice, *, num_workers: int | None, num_gpus: int = 0, some_gpus: str = "") -> None:
    """Refuse what cannot run, before anything is started.

    Args:
        config: of a job that runs a network.
        num_workers: that many CPUs are needed; one, if none is said.
        num_gpus: how many GPUs; 0 for those that ``device`` means.
        some_gpus: how this job is told to take so many GPUs of a cluster, with ``{}`` for the number.

    Raises:
        ResourceError: with the numbers.
    """
    if not is_cluster_given():
        check_local(num_workers or 1, uses_gpus=config.uses_gpus, num_gpus=num_gpus, gpu_ids=config.gpu_ids)
    elif config.gpu_ids:
        some = f", or {some_gpus.format(len(config.gpu_ids))}" if some_gpus else ""
        raise ResourceError(
            f"device={config.device} names GPUs of one machine, and a Ray cluster chooses among its own; "
            f"give device=gpu for all of them{some}"
        )


def start_workers(
    config: PredictConfig | EvaluateConfig, folder: ModelFolder, *, embedding: bool = False, num_gpus: int = 0
) -> WorkerPlan:
    """Prepare the engine, start or join Ray, and choose the actors.

    Raises:
        ResourceError: more workers than can run, with the numbers.
    """
    # Converting a network takes as long as Ray's start and most of a gigabyte: another process beside it does that, and
    # gives the memory back.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as beside:
        device = "cuda" if config.uses_gpus else "cpu"
        prepared = None
        tell_of_conversion(folder, config.engine, device, embedding)
        if not is_engine_prepared(folder, config.engine, device, embedding):
            prepared = beside.submit(prepare_engine, folder, config.engine, device, embedding)
        if config.gpu_ids:
            show_gpus(config.gpu_ids)
        start_ray(uses_gpus=config.uses_gpus)
        if prepared is not None:
            prepared.result()
    num_gpus = num_gpus or len(config.gpu_ids)
    plan = plan_workers(config.num_workers, num_gpus or (None if config.uses_gpus else 0))
    logger.info("starting %s, each loads the model", counted(plan.num_cpu_workers + plan.num_gpu_workers, "worker"))
    return plan
