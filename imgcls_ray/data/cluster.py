"""Start or join Ray, and refuse what it cannot run before it tries."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from dataclasses import dataclass

from imgcls_ray.errors import ResourceError

# Unit descriptors and counts are all that crosses Ray's object store on CPUs; its default takes 30 % of the memory.
_CPU_OBJECT_STORE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class WorkerPlan:
    """The actors of one run and what each takes, in Ray's logical resources."""

    num_cpu_workers: int
    """Actors of one CPU each: all of the work on CPUs, or fetching and decoding for GPUs."""
    num_gpu_workers: int = 0
    """Actors of one GPU each."""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def is_cluster_given() -> bool:
    """Whether Ray runs already: joined by this process, or named by the environment (as in a submitted job)."""
    # A process that has not imported Ray has joined none, and need not import it to say so.
    ray = sys.modules.get("ray")
    return bool(os.environ.get("RAY_ADDRESS")) or (ray is not None and ray.is_initialized())


def start_ray(*, num_gpus: int) -> None:
    """Join the Ray that the environment names, or start one on this machine."""
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    else:
        ray.init(
            address="local",
            num_cpus=available_cores(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=None if num_gpus else _CPU_OBJECT_STORE_BYTES,
        )
    if threading.current_thread() is threading.main_thread():
        # Ray puts a handler of its own there, which leaves without a word.
        signal.signal(signal.SIGTERM, on_sigterm)


def check_local(plan: WorkerPlan) -> None:
    """Refuse a plan that this machine cannot run, before Ray is started for it.

    Raises:
        ResourceError: with the numbers.
    """
    cores = available_cores()
    if plan.num_cpu_workers > cores:
        raise ResourceError(
            f"num_workers={plan.num_cpu_workers} needs {plan.num_cpu_workers} CPUs, this machine has {cores}; "
            "give fewer, or none for all of them"
        )
    if plan.num_gpu_workers:
        import torch

        if plan.num_gpu_workers > (found := torch.cuda.device_count()):
            raise ResourceError(
                f"num_gpus={plan.num_gpu_workers} needs {plan.num_gpu_workers} GPUs, this machine has {found}; "
                "give fewer, or 0 to label on CPUs"
            )


def plan_workers(num_workers: int | None, num_gpus: int) -> WorkerPlan:
    """Choose the actors for the Ray that runs, and check that they all fit at once.

    Actors that do not fit would wait for ever for those that run, so what cannot run is refused.

    Raises:
        ResourceError: with the numbers.
    """
    import ray

    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    plan = WorkerPlan(num_workers or max(cpus, 1), num_gpus)
    if plan.num_cpu_workers > cpus or plan.num_gpu_workers > gpus:
        raise ResourceError(
            f"the run needs {plan.num_cpu_workers} CPUs ({plan.num_cpu_workers} workers of 1) and "
            f"{plan.num_gpu_workers} GPUs, the Ray cluster has {cpus} CPUs and {gpus} GPUs; "
            "lower num_workers or num_gpus, or add nodes"
        )
    return plan
