"""The workers of a run: how many, of how many cores, and how much memory each has; on this machine and on Ray.

A run is never refused for an estimate. The network was measured; what a worker takes beside it was not. So estimates
only choose how many workers there are where nobody gave a number.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from imgcls_ray.words import counted
from imgcls_ray.workers.sizing import check_fits, choose_cores, gigabytes, num_placed, without_margins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.workers.sizing import Room, WorkerMemory

logger = logging.getLogger(__name__)


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


def choose_plan(
    rooms: Sequence[Room],
    memory: WorkerMemory | None,
    *,
    num_workers: int | None = None,
    limits: tuple[int | None, int | None] = (None, None),
    cores_per_worker: int | None = None,
    may_wait: bool = False,
    place: str,
) -> WorkerPlan:
    """Choose the workers on CPUs that have room, or those that are asked for.

    More workers than there are cores for are neither refused nor made fewer here.

    Args:
        rooms: the machines.
        memory: of a worker, where it is known.
        num_workers: if that many are asked for; they have one core if nothing else is said.
        limits: of the number that is chosen, smallest and largest.
        cores_per_worker: if that many are asked for.
        may_wait: machines with room for those that do not fit may come, so nothing is refused.
        place: whose memory it is, for people.

    Raises:
        ResourceError: there is no memory for the networks alone, with the numbers.
    """
    least, most = limits
    cores = cores_per_worker or (1 if num_workers or memory is None else choose_cores(rooms, memory, least or 1))
    needed = None if memory is None else memory.of(cores)
    number = num_workers or within(max(1, num_placed(rooms, cores, needed)), least, most)
    plan = WorkerPlan(number, cores_per_worker=cores, bytes_per_worker=needed)
    if memory is None or number <= num_placed(rooms, cores, needed):
        return plan
    there, network = without_margins(rooms, memory)
    num_now = num_placed(there, cores, network.of(cores))
    if number > num_now and number <= num_placed(rooms, cores) and not may_wait:
        check_fits(there, network, number, cores, place=place)
    if number > num_now and num_placed(rooms, cores, needed):
        # Some of them run as they should, and the others wait for machines.
        return plan
    if num_now:
        kept = sum(room.kept_bytes for room in rooms)
        logger.warning(
            "%s may run out of memory: it has %s left%s, and %s of %s should have %s",
            place,
            gigabytes(sum(room.num_bytes for room in rooms)),
            f", of which {gigabytes(kept)} should stay free" if kept else "",
            counted(number, "worker"),
            counted(cores, "core"),
            gigabytes(number * memory.of(cores)),
        )
        return replace(plan, bytes_per_worker=network.of(cores) or None)
    return plan
