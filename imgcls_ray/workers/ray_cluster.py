"""Start or join Ray, and refuse what it cannot run before it tries."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from imgcls_ray.errors import ResourceError
from imgcls_ray.machine import available_cores, available_memory, cores_in_words
from imgcls_ray.words import counted
from imgcls_ray.workers.plan import Elastic, choose_plan
from imgcls_ray.workers.ray_start import cluster_address, hush_ray, own_ray, starting_ray
from imgcls_ray.workers.sizing import Room, gigabytes, num_placed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.workers.plan import WorkerPlan
    from imgcls_ray.workers.sizing import WorkerMemory

logger = logging.getLogger(__name__)

# Unit descriptors and counts are all that crosses Ray's object store on CPUs; its default takes 30 % of the memory.
_CPU_OBJECT_STORE_BYTES = 256 * 2**20


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
                # Ray's own figure takes cached files for used memory.
                _memory=available_memory(),
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
    there is room. Ray has no stable way to ask what an autoscaler could add, so nothing is refused there that a larger
    node could run, if a number of workers is given; without one, the workers are those of the nodes that are there.

    Raises:
        ResourceError: with the numbers.
    """
    import ray

    rooms = _rooms()
    cpus = sum(room.num_cores for room in rooms)
    gpus = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    may_grow = cluster_address() is not None
    if may_grow and num_workers is None and min_workers is None and not cpus:
        raise ResourceError(
            "the Ray cluster has no CPUs now, so the number of workers cannot be chosen; give num_workers or "
            "min_workers, and the cluster grows for them"
        )
    if num_gpus is None and not gpus:
        raise ResourceError("device=gpu: the Ray cluster has no GPU now; give num_gpus if it can grow, or device=cpu")
    may_wait = may_grow and (num_workers or min_workers or max_workers) is not None
    if rooms and not any(room.num_bytes for room in rooms):
        # Nodes that were started without any could never run what asks for some.
        memory = None
    plan = choose_plan(
        rooms,
        memory,
        num_workers=num_workers,
        limits=(min_workers, max_workers),
        cores_per_worker=cores_per_worker,
        may_wait=may_wait,
        place="the Ray cluster",
    )
    plan = replace(
        plan,
        num_gpu_workers=gpus if num_gpus is None else num_gpus,
        elastic=Elastic(min_workers or 1, max_workers) if may_grow and num_workers is None else None,
    )
    num_now = min(plan.num_cpu_workers, num_placed(rooms, plan.cores_per_worker, plan.bytes_per_worker))
    has_cpus, has_gpus = num_now == plan.num_cpu_workers, plan.num_gpu_workers <= gpus
    if not (has_cpus or may_wait) or not (has_gpus or may_grow):
        raise ResourceError(_too_many(plan, rooms, cpus, gpus, may_grow=may_grow))
    if not has_cpus or not has_gpus:
        logger.info(
            "the Ray cluster has %s and %d GPUs: %d of %d CPU workers%s and %d of %d GPU workers can run now, "
            "the others start when it grows",
            _cpus_in_words(rooms, cpus),
            gpus,
            num_now,
            plan.num_cpu_workers,
            _needs_in_words(plan),
            min(gpus, plan.num_gpu_workers),
            plan.num_gpu_workers,
        )
    return plan


def _too_many(plan: WorkerPlan, rooms: Sequence[Room], cpus: int, gpus: int, *, may_grow: bool) -> str:
    cores = plan.cores_per_worker
    more = "give num_workers or min_workers, and the cluster grows for them" if may_grow else "add nodes"
    lower = f"{'cores_per_worker, ' if cores > 1 else ''}num_workers or num_gpus"
    return (
        f"the run needs {plan.num_cpu_workers * cores} CPUs ({plan.num_cpu_workers} workers of {cores}) and "
        f"{plan.num_gpu_workers} GPUs, the Ray cluster has {_cpus_in_words(rooms, cpus)} and {gpus} GPUs; "
        f"lower {lower}, or {more}"
    )


def _cpus_in_words(rooms: Sequence[Room], cpus: int) -> str:
    on_one = f" (at most {max(room.num_cores for room in rooms)} on one node)" if len(rooms) > 1 else ""
    return f"{cpus} CPUs{on_one}"


def _needs_in_words(plan: WorkerPlan) -> str:
    needs = [] if plan.cores_per_worker == 1 else [f"{plan.cores_per_worker} CPUs"]
    if plan.bytes_per_worker is not None:
        needs.append(f"{gigabytes(plan.bytes_per_worker)} of memory")
    return f" of {' and '.join(needs)}" if needs else ""


def _rooms() -> list[Room]:
    """What the nodes of the cluster have for actors, which is what Ray schedules by."""
    import ray

    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return [Room(int(node.get("CPU", 0)), int(node.get("memory", 0))) for node in resources if node.get("CPU")]
