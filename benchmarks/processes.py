"""Watch a job's processes: the driver, its workers, and whatever else it starts.

Only processes that descend from the job are looked at, and they are known by id and start time, so that an id which the
system hands out again is never mistaken for one of them.
"""

from __future__ import annotations

import subprocess
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import psutil

from benchmarks.common import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Kind = Literal["driver", "worker", "other"]
# Ray renames an actor's process to its class and method: ray::MapWorker(MapBatches(BlockWorker)).submit
_WORKER_TITLES = ("BlockWorker", "MapWorker")
# A worker that is a process of this machine names itself; what it starts has a name of its own.
_WORKER_NAME = "imgcls-worker"
# Processes notice the end of their driver by themselves.
_GRACE_S = 10


@dataclass
class WatchedProcess:
    """One process of the job and what was measured of it."""

    process: psutil.Process
    kind: Kind = "other"
    samples: list[int] = field(default_factory=list)
    """Bytes, evenly spaced in time, since the process became what it is."""

    @property
    def peak_bytes(self) -> int:
        return max(self.samples, default=0)

    @property
    def settled_bytes(self) -> float:
        """Mean over the last half of its life."""
        late = self.samples[len(self.samples) // 2 :]
        return sum(late) / len(late) if late else float("nan")


def unique_bytes(process: psutil.Process) -> int:
    """Memory that would be free if the process ended: shared libraries and Ray's shared memory do not count."""
    return int(process.memory_full_info().uss)


def peak_resident_bytes(process: psutil.Process) -> int:
    """The kernel's own high-water mark: cheap enough to read while speed is measured."""
    with open(f"/proc/{process.pid}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


class ProcessWatch:
    """Measures a job's processes every so often, in a thread of its own."""

    def __init__(
        self, job: subprocess.Popen[bytes], measure: Callable[[psutil.Process], int], *, interval_s: float
    ) -> None:
        self.processes: dict[psutil.Process, WatchedProcess] = {}
        self._root = psutil.Process(job.pid)
        self._measure = measure
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="process-watch", daemon=True)
        self._thread.start()

    def of_kind(self, kind: Kind) -> list[WatchedProcess]:
        return [watched for watched in list(self.processes.values()) if watched.kind == kind]

    def is_working(self) -> bool:
        """Whether a worker still runs, and may write another part."""
        return any(_is_alive(watched.process) for watched in self.of_kind("worker"))

    def left_over(self) -> set[psutil.Process]:
        """Processes of the job that still run, and their children."""
        left: set[psutil.Process] = set()
        for process in list(self.processes):
            if _is_alive(process):
                left.add(process)
                with suppress(psutil.Error):
                    left.update(filter(_is_alive, process.children(recursive=True)))
        return left

    def kill_left_over(self) -> list[str]:
        """Kill what still runs; returns the titles of these processes."""
        titles = []
        for process in self.left_over():
            with suppress(psutil.Error):
                titles.append(" ".join(process.cmdline()).strip()[:100])
                process.kill()
        return sorted(titles)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Measure everything once."""
        with suppress(psutil.Error):
            for process in (self._root, *self._root.children(recursive=True)):
                # A process that ends between two lines costs its own sample only.
                with suppress(psutil.Error, OSError):
                    self._measure_one(process)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(self._interval_s)

    def _measure_one(self, process: psutil.Process) -> None:
        watched = self.processes.setdefault(process, WatchedProcess(process))
        if watched.kind == "other" and (kind := self._kind(process)) != "other":
            # Ray starts idle processes and makes workers of them; what they were before is not the worker's.
            watched.kind = kind
            watched.samples.clear()
        watched.samples.append(self._measure(process))

    def _kind(self, process: psutil.Process) -> Kind:
        if process == self._root:
            return "driver"
        if process.name() == _WORKER_NAME:
            return "worker"
        title = " ".join(process.cmdline())
        if not any(name in title for name in _WORKER_TITLES):
            return "other"
        # A command that a worker starts carries the worker's title for a moment.
        parents = {watched.process.pid for watched in self.of_kind("worker")}
        return "other" if process.ppid() in parents else "worker"


def _is_alive(process: psutil.Process) -> bool:
    # An orphan stays a zombie for as long as its new parent does not ask for it.
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


@contextmanager
def watched_job(
    command: Sequence[str],
    environment: dict[str, str],
    *,
    measure: Callable[[psutil.Process], int] = peak_resident_bytes,
    interval_s: float = 1.0,
) -> Iterator[tuple[subprocess.Popen[bytes], ProcessWatch]]:
    """Start a command under watch; at the end, also of an interrupted benchmark, nothing of it runs on.

    The command's own output is dropped from stdout, which belongs to the figures; its stderr stays.
    """
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as job:
        watch = ProcessWatch(job, measure, interval_s=interval_s)
        try:
            yield job, watch
        finally:
            watch.look()
            job.kill()
            job.wait()
            watch.stop()
            wait_for(_GRACE_S, lambda: not watch.left_over())
            watch.kill_left_over()
