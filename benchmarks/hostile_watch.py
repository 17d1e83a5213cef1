"""What an attack does to others: a bystander's answers, the replicas, and the memory of the whole service."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import psutil

from benchmarks.bodies import CLASSIFY
from benchmarks.http_load import GOOD, Kind, Load, OpenLoop, loading
from benchmarks.http_wire import make_request
from benchmarks.servers import pids_of, processes_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from benchmarks.http_load import Loading, LoadResult
    from benchmarks.servers import Server

BYSTANDER_RATE = 5.0
"""Requests per second, on a connection that is kept and as many on fresh ones."""
QUICK_S = 1.0
"""What nobody minds."""
# Longer than the service's own deadline: what takes longer hangs.
_TIMEOUT_S = 35.0
_MEMORY_INTERVAL_S = 1.0


class Request(NamedTuple):
    """One of a bystander's that came to its end."""

    due: float
    """Seconds of the monotonic clock, as ``ended``."""
    ended: float
    result: str
    """Status of the answer, or what became of the request instead."""


@dataclass(frozen=True)
class Answers:
    """What a bystander got in a time; seconds."""

    counts: dict[str, int]
    p50_s: float
    p99_s: float
    max_s: float
    silence_s: float
    """The longest time without a good answer."""

    @property
    def num_wrong(self) -> int:
        return sum(count for result, count in self.counts.items() if result != GOOD)


def summarise(requests: Sequence[Request], start: float, end: float) -> Answers:
    """What became of the requests that were due between two moments of the monotonic clock.

    Requests without a good answer count with the time after which that was certain. A silence that lasts beyond the end
    counts until the first good answer after it, or until the last request had come to its end.
    """
    chosen = [request for request in requests if start <= request.due <= end]
    seconds = [request.ended - request.due for request in chosen]
    if not seconds:
        nothing = float("nan")
        return Answers({}, nothing, nothing, nothing, end - start)
    good = sorted(request.ended for request in requests if request.result == GOOD and request.ended >= start)
    during = [moment for moment in good if moment <= end]
    after = [moment for moment in good if moment > end]
    last = after[0] if after else max(end, *(request.ended for request in chosen))
    moments = [start, *during, last]
    p50, p99, longest = np.percentile(seconds, (50, 99, 100))
    return Answers(
        counts=dict(sorted(Counter(request.result for request in chosen).items())),
        p50_s=float(p50),
        p99_s=float(p99),
        max_s=float(longest),
        silence_s=float(np.diff(moments).max()),
    )


def well_after(requests: Sequence[Request], end: float) -> float:
    """Seconds from an attack's end until the last of the requests was over that was not answered well and quickly."""
    bad = [r.ended for r in requests if r.result != GOOD or r.ended - r.due > QUICK_S]
    return max(0.0, *(moment - end for moment in bad)) if bad else 0.0


def requests_of(result: LoadResult) -> list[Request]:
    """One by one, in moments of the monotonic clock."""
    return [
        Request(result.start + ended - latency, result.start + ended, result.outcomes[code].result)
        for code, ended, latency in zip(
            result.codes.tolist(), result.ended.tolist(), result.latencies.tolist(), strict=True
        )
    ]


class Bystander:
    """One who asks on."""

    def __init__(self, loads: Sequence[Loading]) -> None:
        self._loads = loads

    def stop(self) -> list[Request]:
        """Let it ask no more; what became of all its requests."""
        for load in self._loads:
            load.stop()
        return [request for load in self._loads for request in requests_of(load.wait())]


@contextmanager
def bystanding(server: Server, jpeg: bytes, key: str, *, most_s: float = 3600.0) -> Iterator[Bystander]:
    """Ask from processes of their own, until told to stop."""
    kinds = [
        Kind(
            name, make_request(CLASSIFY, jpeg, "image/jpeg", headers=(f"X-API-Key: {key}", f"Connection: {connection}"))
        )
        for name, connection in (("kept", "keep-alive"), ("fresh", "close"))
    ]
    arrivals = OpenLoop(BYSTANDER_RATE, is_even=True)
    with ExitStack() as stack:
        loads = [
            stack.enter_context(loading(Load(server.port, [kind], arrivals, most_s, timeout_s=_TIMEOUT_S)))
            for kind in kinds
        ]
        yield Bystander(loads)


def replicas_of(session: int) -> set[int]:
    """Ids of the replicas' processes."""
    parents = {pid: parent for pid in pids_of(session, "replica") if (parent := _parent(pid)) is not None}
    # What a replica has forked carries its name.
    return {pid for pid, parent in parents.items() if parent not in parents}


def _parent(pid: int) -> int | None:
    with suppress(psutil.Error):
        return int(psutil.Process(pid).ppid())
    return None


def proportional_bytes(pid: int) -> int:
    """Memory of one process, of which what it shares with others counts in part: sums count nothing twice.

    Raises:
        OSError: it has ended.
    """
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:")), 0)


class Used(NamedTuple):
    """Memory of a service at one moment, bytes."""

    all: int
    """Of all its processes together."""
    replica: int
    """Of the replica that takes most, with the processes that it has started."""


def used_memory(sizes: Mapping[int, int], parents: Mapping[int, int], replicas: Collection[int]) -> Used:
    """Sum the sizes of processes.

    Args:
        sizes: bytes, by process.
        parents: of each process.
        replicas: those whose families count together.
    """
    of_replica = dict.fromkeys(replicas, 0)
    for pid, size in sizes.items():
        ancestor: int | None = pid
        while ancestor is not None and ancestor not in of_replica:
            ancestor = parents.get(ancestor)
        if ancestor is not None:
            of_replica[ancestor] += size
    return Used(sum(sizes.values()), max(of_replica.values(), default=0))


class TreeWatch:
    """Measures all processes of a session every so often, in a thread of its own."""

    def __init__(self, session: int) -> None:
        self.samples: list[Used] = []
        """The first when the watch began, the last when it ended."""
        self._session = session
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tree-watch", daemon=True)

    def __enter__(self) -> TreeWatch:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def look(self) -> None:
        """Measure once."""
        sizes: dict[int, int] = {}
        parents: dict[int, int] = {}
        for process in processes_of(self._session):
            with suppress(OSError, psutil.Error):
                parents[process.pid] = process.ppid()
                sizes[process.pid] = proportional_bytes(process.pid)
        self.samples.append(used_memory(sizes, parents, replicas_of(self._session)))

    def most(self) -> Used:
        """The peaks of both, which may have been at different moments."""
        return Used(max(used.all for used in self.samples), max(used.replica for used in self.samples))

    def _run(self) -> None:
        while not self._stop.wait(_MEMORY_INTERVAL_S):
            self.look()
