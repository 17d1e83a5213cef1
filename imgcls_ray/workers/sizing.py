"""How many workers, of how many cores each: chosen so that what they load fits into memory.

A worker of one core is the fastest way for a network that fits once for each core: nothing is shared, and nothing
waits. Where it does not fit, a worker of several cores has the weights once for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.errors import ResourceError
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.models.engines.memory import NetworkMemory

LOCAL_BYTES = 256 * 2**20
"""Of a process of this machine beside its network: images that were read ahead, and what decoding takes."""
ACTOR_BYTES = 768 * 2**20
"""The same of an actor of Ray, which shares its libraries with nobody."""


class Room(NamedTuple):
    """What one machine has for workers."""

    num_cores: int
    num_bytes: int
    """Memory that is left."""


class WorkerMemory(NamedTuple):
    """What a worker takes."""

    network: NetworkMemory
    rest: int
    """Beside its network, bytes."""

    def of(self, num_cores: int) -> int:
        return self.rest + self.network.of_worker(num_cores)


def choose_cores(rooms: Sequence[Room], memory: WorkerMemory) -> int:
    """Cores of each worker: as few as keep the most cores at work.

    >>> from imgcls_ray.models.engines.memory import NetworkMemory
    >>> memory = WorkerMemory(NetworkMemory(once=1_500_000_000, per_core=600_000_000), rest=100_000_000)
    >>> choose_cores([Room(16, 64_000_000_000)], memory), choose_cores([Room(16, 32_000_000_000)], memory)
    (1, 2)
    """
    most_cores = max((room.num_cores for room in rooms), default=1)
    return max(range(1, most_cores + 1), key=lambda cores: (num_fitting(rooms, memory, cores) * cores, -cores))


def num_fitting(rooms: Sequence[Room], memory: WorkerMemory, cores: int) -> int:
    """How many workers of so many cores have room."""
    return sum(min(room.num_cores // cores, room.num_bytes // memory.of(cores)) for room in rooms)


def check_fits(rooms: Sequence[Room], memory: WorkerMemory, num_workers: int, cores: int, *, place: str) -> None:
    """Refuse workers for which there is no memory, before they are started.

    Args:
        rooms: all machines.
        memory: of one worker.
        num_workers: how many.
        cores: of each.
        place: whose memory it is, for people: ``this machine``.

    Raises:
        ResourceError: with the numbers.
    """
    num_there = sum(room.num_bytes for room in rooms)
    if num_workers <= sum(room.num_bytes // memory.of(cores) for room in rooms):
        return
    where = f"{place} has {_gb(num_there)} left"
    if len(rooms) > 1:
        where += f", and at most {_gb(max(room.num_bytes for room in rooms))} on one node"
    if num_workers == 1:
        ways_out = "give a smaller batch_size or a smaller network, or use a machine with more memory"
        if cores > 1:
            ways_out = f"give a smaller cores_per_worker, or {ways_out.removeprefix('give ')}"
    else:
        ways_out = "give fewer num_workers, or leave num_workers and cores_per_worker out"
        if memory.of(1) < memory.rest + memory.network.once * 2:
            ways_out += ", so that workers of several cores share the weights"
    raise ResourceError(
        f"{counted(num_workers, 'worker')} of {counted(cores, 'core')} {'needs' if num_workers == 1 else 'need'} "
        f"{_gb(num_workers * memory.of(cores))} of memory ({_gb(memory.rest + memory.network.once)} for each worker "
        f"and {_gb(memory.network.per_core)} for each of its cores), {where}; {ways_out}"
    )


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
