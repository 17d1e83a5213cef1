"""Start or join Ray, and refuse what it cannot run before it tries."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from imgcls_ray.errors import ResourceError
from imgcls_ray.machine import available_cores, cores_in_words
from imgcls_ray.words import counted
from imgcls_ray.workers.ray_start import cluster_address, hush_ray, own_ray, starting_ray
from imgcls_ray.workers.sizing import Room, check_fits, choose_cores, num_fitting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.workers.sizing import WorkerMemory

logger = logging.getLogger(__name__)

# Unit descriptors and counts are all that crosses Ray's object store on CPUs; its default takes 30 % of the memory.
_CPU_OBJECT_STORE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Elastic:
    """Between which numbers the CPU workers of a run on a cluster may change."""

    min_workers: int = 1
    """The cluster is asked for so many, whatever it has."""
    max_workers: int | None = None
    """``None``: as many as the cluster has CPUs at any moment, and nothing is asked for."""


@dataclass(frozen=True)
class WorkerPlan:
    """The workers of one run and what each takes; on Ray, in its logical resources."""

    num_cpu_workers: int
    """Workers on CPUs, at the start: all of the work, or fetching and decoding for GPUs."""
    num_gpu_workers: int = 0
    """Workers of one GPU each, on Ray."""
    elastic: Elastic | None = None
    """On Ray: the CPU workers become more as nodes join and fewer as they leave. ``None``: their number is fixed."""
    cores_per_worker: int = 1
    """CPUs of each worker on CPUs."""
    bytes_per_worker: int | None = None
    """Memory of each worker on CPUs, where it is known."""


def within(number: int, least: int | None, most: int | None) -> int:
    """A number of workers, held between two limits."""
    return min(max(number, least or 1), most or max(number, least or 1))


def is_cluster_given() -> bool:
    """Whether Ray runs already: joined by this process, or named by the environment (as in a submitted job).

    Raises:
        ResourceError: the environment names what is no cluster.
    """
    return cluster_address() is not None or _is_ray_started()


def _is_ray_started() -> bool:
    # A process that has not imported Ray has joined none, and need not import it to say so.
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def start_ray(*, uses_gpus: bool) -> None:
    """Join the Ray that the environment names, or start one on this machine.

    Raises:
        ImgclsError: it cannot be joined, or did not start; with the exit code.
    """
    if _is_ray_started():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = cluster_address()
    if address is None:
        logger.info("starting Ray on this machine")
    else:
        logger.info("joining the Ray cluster (RAY_ADDRESS=%s)", address)
    with starting_ray(address):
        own = own_ray() if address is None else None
        import ray

        hush_ray()
        if own is None:
            ray.init(logging_level=logging.ERROR, log_to_driver=False)
        else:
            ray.init(
                **own,
                num_cpus=available_cores(),
                object_store_memory=None if uses_gpus else _CPU_OBJECT_STORE_BYTES,
            )


def check_local(
    num_workers: int,
    *,
    key: str = "num_workers",
    cores_per_worker: int = 1,
    uses_gpus: bool,
    num_gpus: int,
    gpu_ids: Sequence[int],
) -> None:
    """Refuse what this machine cannot run, before Ray is started for it.

    Args:
        num_workers: on CPUs.
        key: of the configuration that asks for them.
        cores_per_worker: of each of them.
        uses_gpus: whether any is needed.
        num_gpus: how many; 0 for those named, or for as many as there are.
        gpu_ids: those that are named.

    Raises:
        ResourceError: with the numbers.
    """
    if (num_cores := num_workers * cores_per_worker) > available_cores():
        given = f"{key}={num_workers}"
        if cores_per_worker > 1:
            given = f"cores_per_worker={cores_per_worker}" + (f" with {given}" if num_workers > 1 else "")
        raise ResourceError(
            f"{given} needs {num_cores} CPUs, {cores_in_words()}; give fewer, or leave it out to use all of them"
        )
    if uses_gpus:
        import torch

        found = torch.cuda.device_count()
        if missing := [i for i in gpu_ids if i >= found]:
            named = ",".join(map(str, gpu_ids))
            raise ResourceError(
                f"device=gpu:{named}: this machine has {counted(found, 'GPU')}, so there is no GPU {missing[0]}; "
                "give one that is there, or device=cpu"
            )
        if max(num_gpus, 1) > found:
            wanted = f"num_gpus={num_gpus} needs {num_gpus} GPUs" if num_gpus else "device=gpu needs a GPU"
            on_cpus = "leave it out to use CPUs" if num_gpus else "give device=cpu"
            way_out = f"give fewer, or {on_cpus}" if found else on_cpus
            raise ResourceError(f"{wanted}, this machine has {counted(found, 'GPU')}; {way_out}")


def show_gpus(gpu_ids: Sequence[int]) -> None:
    """Let this process, and the Ray that it starts, see these GPUs only."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else None
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[i] if names else str(i) for i in gpu_ids)


def num_cluster_gpus() -> int:
    """GPUs that the Ray cluster of this process has now; it is joined for that."""
    import ray

    start_ray(uses_gpus=False)
    return int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def plan_workers(
    num_workers: int | None,
    num_gpus: int | None,
    *,
    min_workers: int | None = None,
    max_workers: int | None = None,
    cores_per_worker: int | None = None,
    memory: WorkerMemory | None = None,
) -> WorkerPlan:
    """Choose the actors for the Ray that runs, and check that they can run.

    Args:
        num_workers: on CPUs, a fixed number; by default as many as Ray has room for, at any moment.
        num_gpus: 0 for none, None for all that Ray has now.
        min_workers: without ``num_workers``: ask the cluster for so many, whatever it has.
        max_workers: without ``num_workers``: use no more, but ask the cluster for so many.
        cores_per_worker: CPUs of each; by default as few as have their network in memory, and one if their number is
            given.
        memory: of each, where that is known.

    On a machine's own Ray, actors that do not fit at once would wait for ever for those that run. A cluster that the
    environment names may grow: actors that wait are what tells its autoscaler to add nodes, and each starts as soon as
    there is room. Ray has no stable way to ask what an autoscaler could add, so there nothing is refused that a larger
    node could run.

    Raises:
        ResourceError: with the numbers.
    """
    import ray

    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    may_grow = cluster_address() is not None
    if may_grow and num_workers is None and min_workers is None and not cpus:
        raise ResourceError(
            "the Ray cluster has no CPUs now, so the number of workers cannot be chosen; give num_workers or "
            "min_workers, and the cluster grows for them"
        )
    if num_gpus is None and not gpus:
        raise ResourceError("device=gpu: the Ray cluster has no GPU now; give num_gpus if it can grow, or device=cpu")
    cores = cores_per_worker or 1
    plan = WorkerPlan(
        num_workers or max(cpus // cores, 1),
        gpus if num_gpus is None else num_gpus,
        cores_per_worker=cores,
        elastic=Elastic(min_workers or 1, max_workers) if may_grow and num_workers is None else None,
    )
    if memory is not None:
        rooms = None if may_grow and (num_workers is not None or not cpus) else _rooms()
        plan = fit_plan(plan, rooms, memory, num_workers, cores_per_worker, place="the Ray cluster")
    if num_workers is None:
        plan = replace(plan, num_cpu_workers=within(plan.num_cpu_workers, min_workers, max_workers))
    num_cores = plan.num_cpu_workers * plan.cores_per_worker
    if num_cores <= cpus and plan.num_gpu_workers <= gpus:
        return plan
    if may_grow:
        logger.info(
            "the Ray cluster has %d CPUs and %d GPUs: %d of %d CPU workers and %d of %d GPU workers can run now, the "
            "others start when it grows",
            cpus,
            gpus,
            min(cpus // plan.cores_per_worker, plan.num_cpu_workers),
            plan.num_cpu_workers,
            min(gpus, plan.num_gpu_workers),
            plan.num_gpu_workers,
        )
        return plan
    raise ResourceError(
        f"the run needs {num_cores} CPUs ({plan.num_cpu_workers} workers of {plan.cores_per_worker}) and "
        f"{plan.num_gpu_workers} GPUs, the Ray cluster has {cpus} CPUs and {gpus} GPUs; "
        "lower num_workers or num_gpus, or add nodes"
    )


def fit_plan(
    plan: WorkerPlan,
    rooms: Sequence[Room] | None,
    memory: WorkerMemory,
    num_workers: int | None,
    cores_per_worker: int | None,
    *,
    place: str,
) -> WorkerPlan:
    """A plan whose workers have their network in memory.

    Args:
        plan: as it is without a bound on memory.
        rooms: the machines; None if they are not known yet, and nothing is to be refused.
        memory: of a worker.
        num_workers: if that many are asked for.
        cores_per_worker: if that many are asked for.
        place: whose memory it is, for people.

    Raises:
        ResourceError: there is none, with the numbers.
    """
    cores = cores_per_worker or (1 if num_workers or not rooms else choose_cores(rooms, memory))
    if rooms is not None:
        num_workers = num_workers or max(1, num_fitting(rooms, memory, cores))
        check_fits(rooms, memory, num_workers, cores, place=place)
    return replace(
        plan,
        num_cpu_workers=num_workers or plan.num_cpu_workers,
        cores_per_worker=cores,
        bytes_per_worker=memory.of(cores),
    )


def _rooms() -> list[Room]:
    """What the nodes of the cluster have for actors, which is what Ray schedules by."""
    import ray

    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return [Room(int(node.get("CPU", 0)), int(node.get("memory", 0))) for node in resources if node.get("CPU")]
