"""Make ready what classifies: the resources, the engine that all workers load, and the workers' place."""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from imgcls_ray.config import OnDevice, RunsBlocks
from imgcls_ray.errors import JobFailedError, ResourceError
from imgcls_ray.machine import available_cores, available_memory
from imgcls_ray.models.engines.load import native_bf16_of, preparation_of, prepare_engine
from imgcls_ray.models.engines.memory import NetworkMemory, can_measure, known_memory, measure_memory
from imgcls_ray.words import counted
from imgcls_ray.workers.kept_warnings import kept_warnings
from imgcls_ray.workers.local_pool import LocalPool
from imgcls_ray.workers.plan import choose_plan, within
from imgcls_ray.workers.pool import is_on_cluster, is_on_ray
from imgcls_ray.workers.ray_cluster import check_local, is_cluster_given, plan_workers, show_gpus, start_ray
from imgcls_ray.workers.ray_pool import RayPool
from imgcls_ray.workers.ray_precision import precision_of_nodes
from imgcls_ray.workers.sizing import ACTOR_BYTES, LOCAL_BYTES, Room, WorkerMemory, gigabytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgcls_ray.config import CheckConfig, EvaluateConfig, Precision, PredictConfig
    from imgcls_ray.models.engines.converted import Preparation
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.workers.forks import ForkServer
    from imgcls_ray.workers.pool import Pool

logger = logging.getLogger(__name__)

# Of a machine's memory, for the command itself and the files that are being read.
_KEPT_FREE_BYTES = 512 * 2**20
# What loading a network takes beside its weights, which are in memory as they are kept and as they are computed with.
_LOADING_BYTES = 256 * 2**20


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
    _tell_of_start(pool.plan.num_cpu_workers, loads_model=False, on_ray=is_on_ray(config))
    return pool


def start_classifiers(
    config: EvaluateConfig | PredictConfig,
    local: LocalPool,
    folder: ModelFolder,
    *,
    embedding: bool = False,
    num_gpus: int = 0,
    precision: Precision | None = None,
) -> Pool:
    """Prepare the engine and choose workers, as ``start_workers``.

    Args:
        config: of the job.
        local: as ``local_pool`` made it.
        folder: of the model.
        embedding: the model gives these, too.
        num_gpus: how many GPUs; 0 for those that ``device`` means.
        precision: that the run computes in, if it is not the configuration's; its memory decides.

    Raises:
        ResourceError: more workers than can run, with the numbers.
    """
    if not is_on_ray(config):
        return start_locally(config, local, folder, embedding=embedding, precision=precision)
    network = _Network(folder, config, embedding, precision or config.precision)
    pool = _start_on_ray(network, num_gpus=num_gpus)
    num_workers = pool.plan.num_cpu_workers + pool.plan.num_gpu_workers
    _tell_of_start(num_workers, loads_model=True, cores=pool.plan.cores_per_worker, on_ray=True)
    return pool


def start_locally(
    config: EvaluateConfig | PredictConfig,
    local: LocalPool,
    folder: ModelFolder,
    *,
    embedding: bool = False,
    is_alone: bool = False,
    precision: Precision | None = None,
) -> LocalPool:
    """As ``start_classifiers``, on the local pool, of which all workers will be needed, or one with all cores."""
    network = _Network(folder, config, embedding, precision or config.precision)
    if preparation := network.preparation("cpu"):
        network.tell_of_preparation(preparation)
        network.tell_of_check(preparation, local.call(network.prepare_for_cpus))
    num_left = available_memory()
    # Where it is not told what is left, it is of no use to know what is needed.
    memory = None if num_left is None else network.memory(local.call)
    # The file of the network is mapped by all workers, and in memory once.
    room = Room(available_cores(), num_left or 0, kept_bytes=_KEPT_FREE_BYTES + folder.num_bytes)
    plan = choose_plan(
        [room],
        None if memory is None else WorkerMemory(memory, LOCAL_BYTES),
        num_workers=1 if is_alone else config.num_workers,
        limits=(None, None) if is_alone else config.worker_limits,
        cores_per_worker=1 if is_alone else config.cores_per_worker,
        place="this machine",
    )
    if not is_alone:
        local.plan = plan
    _tell_of_start(plan.num_cpu_workers, loads_model=True, cores=plan.cores_per_worker, on_ray=False)
    return local


def shared_precision(config: EvaluateConfig | PredictConfig, folder: ModelFolder, pool: Pool) -> Precision:
    """The configuration's precision; ``auto`` as all nodes of a cluster can have it, so that no two rows differ by it.

    On one machine, and on GPUs, ``auto`` is the same for every worker anyway.
    """
    if config.precision != "auto" or not isinstance(pool, RayPool) or pool.plan.num_gpu_workers:
        return config.precision
    return precision_of_nodes(native_bf16_of(folder, config.engine))


def _start_on_ray(network: _Network, *, num_gpus: int) -> RayPool:
    config = network.config
    device = "cuda" if config.uses_gpus else "cpu"
    if preparation := network.preparation(device):
        network.tell_of_preparation(preparation)
    # Asked before Ray is started: then there is one in any case.
    on_cluster = is_on_cluster(config)
    with ThreadPoolExecutor(1) as beside:
        # Converting a network takes as long as Ray's start, which is beside it.
        prepared = beside.submit(_prepare_and_measure, network, device, preparation, on_cluster=on_cluster)
        if config.gpu_ids:
            show_gpus(config.gpu_ids)
        start_ray(uses_gpus=config.uses_gpus)
        memory = prepared.result()
    least, most = config.worker_limits
    if config.uses_gpus:
        num_gpus = num_gpus or len(config.gpu_ids)
        return RayPool(plan_workers(config.num_workers, num_gpus or None, min_workers=least, max_workers=most))
    if memory is not None and network.precision == "auto":
        # In fp32 a network takes twice the memory, and whether all nodes have bf16 only Ray can tell.
        shared = precision_of_nodes(native_bf16_of(network.folder, config.engine))
        if shared != "auto":
            memory = replace(network, precision=shared).memory(_in_new_process, on_cluster=on_cluster)
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


def _prepare_and_measure(
    network: _Network, device: str, preparation: Preparation | None, *, on_cluster: bool
) -> NetworkMemory | None:
    if preparation is not None:
        try:
            network.tell_of_check(preparation, _in_new_process(network.prepare_for_cpus))
        except BrokenExecutor as death:
            raise JobFailedError(f"a process that was to get the workers ready ended: {death}") from death
    # With GPUs it is their memory that matters.
    return network.memory(_in_new_process, on_cluster=on_cluster) if device == "cpu" else None


def _in_new_process(function: Callable[[], Any]) -> Any:
    """Call a function in a process that has done nothing else, and gives its memory back at its end."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function).result()


@dataclass(frozen=True)
class _Network:
    """What workers on CPUs load, and what has to be done once before they do."""

    folder: ModelFolder
    config: EvaluateConfig | PredictConfig
    embedding: bool
    precision: Precision

    @property
    def _load(self) -> dict[str, Any]:
        config = self.config
        return {
            "engine": config.engine,
            "precision": self.precision,
            "batch_size": config.batch_size,
            "embedding": self.embedding,
        }

    def memory(self, call: Callable[[Callable[[], Any]], Any], *, on_cluster: bool = False) -> NetworkMemory | None:
        """What it takes: as it was measured, or is measured now; None where that cannot be.

        To know it is a help and no need: no failure, and no death, of what measures ends a run that may well work.

        Args:
            call: calls a function in a process of its own, and returns or raises what it does.
            on_cluster: the workers may be on larger machines than this one.
        """
        known = known_memory(self.folder, **self._load)
        if known is not None or not can_measure():
            return known
        why = self._why_not_to_measure(on_cluster=on_cluster)
        if not why:
            try:
                told = call(self.measure)
                return None if told is None else NetworkMemory(*told)
            except Exception as error:  # of the engine, or the end of the process
                why = " ".join(str(error).split())
        logger.info(
            "%s: how much memory the network needs is not known (%s), so the workers follow from the cores alone",
            self.folder.path,
            why,
        )
        return None

    def _why_not_to_measure(self, *, on_cluster: bool) -> str:
        # The command may be on a small node of the cluster, where no worker would run. In a container, the kernel ends
        # it together with a process for which there is no memory.
        left = available_memory()
        if on_cluster and left is not None and left < 2 * self.folder.num_bytes + _LOADING_BYTES:
            return f"this machine has {gigabytes(left)} left"
        if self.preparation("cpu") is not None:
            # Then the measured process would prepare it, which takes much more.
            return "the prepared network cannot be kept"
        return ""

    def preparation(self, device: str) -> Preparation | None:
        """What is to be done before workers load it; it reads and hashes files."""
        return preparation_of(self.folder, self.config.engine, device, self.embedding)

    def tell_of_preparation(self, preparation: Preparation) -> None:
        """Log what takes long."""
        if preparation == "conversion":
            logger.info(
                "%s: converting the network once, about 15 s; later commands use the converted one", self.folder.path
            )

    def tell_of_check(self, preparation: Preparation, warnings: Sequence[str]) -> None:
        """Log what the process found that prepared the network; before a conversion, this one has told it."""
        if preparation == "check":
            for words in warnings:
                logger.warning("%s", words)

    def prepare_for_cpus(self) -> list[str]:
        """For another process to call, which then gives the memory back. Returns its warnings: nobody sees its log."""
        with kept_warnings() as warnings:
            prepare_engine(self.folder, self.config.engine, "cpu", self.embedding)
        return warnings

    def measure(self) -> NetworkMemory | None:
        """For another process to call, in which nothing has been prepared."""
        return measure_memory(self.folder, **self._load)


def _tell_of_start(num_workers: int, *, loads_model: bool, cores: int = 1, on_ray: bool) -> None:
    workers = counted(num_workers, "worker") if on_ray else counted(num_workers, "process", "processes")
    loads = "" if not loads_model else ", each loads the model" if num_workers > 1 else ", which loads the model"
    of_cores = f" of {cores} cores" if cores > 1 else ""
    logger.info("starting %s%s on %s%s", workers, of_cores, "Ray" if on_ray else "this machine", loads)
