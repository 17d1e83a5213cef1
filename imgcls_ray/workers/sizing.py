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
    kept_bytes: int = 0
    """Of that, better left to others than workers."""


class WorkerMemory(NamedTuple):
    """What a worker takes."""

    network: NetworkMemory
    rest: int
    """Beside its network, bytes, with room to spare."""

    def of(self, num_cores: int) -> int:
        return self.rest + self.network.of_worker(num_cores)


def choose_cores(rooms: Sequence[Room], memory: WorkerMemory, least: int = 1) -> int:
    """Cores of each worker: as few as keep the most cores at work, and one where not even ``least`` workers have room.

    >>> from imgcls_ray.models.engines.memory import NetworkMemory
    >>> memory = WorkerMemory(NetworkMemory(once=1_500_000_000, per_core=600_000_000), rest=100_000_000)
    >>> choose_cores([Room(16, 64_000_000_000)], memory), choose_cores([Room(16, 32_000_000_000)], memory)
    (1, 2)
    """
    most_cores = max((room.num_cores for room in rooms), default=1)
    enough = [cores for cores in range(1, most_cores + 1) if num_fitting(rooms, memory, cores) >= least]
    return max(enough, key=lambda cores: (num_fitting(rooms, memory, cores) * cores, -cores), default=1)


def num_fitting(rooms: Sequence[Room], memory: WorkerMemory, cores: int) -> int:
    """How many workers of so many cores have room."""
    return num_placed(rooms, cores, memory.of(cores))


def num_placed(rooms: Sequence[Room], cores: int, num_bytes: int | None = None) -> int:
    """How many workers of so many cores and bytes can run, each on one machine; by their cores alone without bytes."""
    return sum(
        min(room.num_cores // cores, max(0, room.num_bytes - room.kept_bytes) // num_bytes)
        if num_bytes
        else room.num_cores // cores
        for room in rooms
    )


def without_margins(rooms: Sequence[Room], memory: WorkerMemory) -> tuple[list[Room], WorkerMemory]:
    """What is there, and what the network alone takes: the part that was measured and not estimated."""
    return [room._replace(kept_bytes=0) for room in rooms], memory._replace(rest=0)


def check_fits(rooms: Sequence[Room], memory: WorkerMemory, num_workers: int, cores: int, *, place: str) -> None:
    """Refuse workers that have no room, before they are started.

    Args:
        rooms: all machines.
        memory: of one worker.
        num_workers: how many.
        cores: of each.
        place: whose memory it is, for people: ``this machine``.

    Raises:
        ResourceError: with the numbers.
    """
    if num_workers <= num_fitting(rooms, memory, cores):
        return
    num_there = sum(room.num_bytes for room in rooms)
    where = f"{place} has {gigabytes(num_there)} left"
    if len(rooms) > 1:
        largest = max(rooms, key=lambda room: room.num_bytes)
        where += f", and at most {gigabytes(largest.num_bytes)} on one node"
    if num_workers == 1:
        ways_out = "give a smaller batch_size or a smaller network, or use a machine with more memory"
        if cores > 1:
            ways_out = f"give a smaller cores_per_worker, or {ways_out.removeprefix('give ')}"
    else:
        ways_out = "ask for fewer workers, or leave their number and cores_per_worker out"
        if memory.of(1) < memory.rest + memory.network.once * 2:
            ways_out += ", so that workers of several cores share the weights"
    each, per_core = memory.rest + memory.network.once, memory.network.per_core
    raise ResourceError(
        f"{counted(num_workers, 'worker')} of {counted(cores, 'core')} {'needs' if num_workers == 1 else 'need'} "
        f"{gigabytes(num_workers * memory.of(cores))} of memory ({gigabytes(each)} for each worker and "
        f"{gigabytes(per_core)} for each of its cores), {where}; {ways_out}"
    )


def gigabytes(num_bytes: int) -> str:
    """For people."""
    return f"{num_bytes / 1e9:.1f} GB"
