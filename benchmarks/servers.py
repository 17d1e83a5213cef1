"""Start a server for a benchmark, watch its processes, and leave none of them behind.

A server and whatever it starts is one session of the system, by which its processes are known, also those whose parents
have ended.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, NamedTuple

import psutil

from benchmarks.bodies import CLASSIFY
from benchmarks.common import imgcls, wait_for
from imgcls_ray.serve.local import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_MAX_START_S = 180
_MAX_END_S = 30
# How Ray and HAProxy call the processes through which a request goes.
_TITLES = {
    "ray::ServeReplica": "replica",
    "haproxy": "HAProxy",
    "ray::ProxyActor": "proxy",
    "ray::HAProxyManager": "HAProxy manager",
    "ray::ServeController": "controller",
}


class Server(NamedTuple):
    """A server that answers."""

    port: int
    path: str
    """Where images are labelled."""
    session: int


@contextmanager
def our_server(
    model: Path,
    environment: Mapping[str, str],
    *,
    is_haproxy: bool = True,
    settings: Sequence[str] = (),
    folder: Path | None = None,
) -> Iterator[Server]:
    """``imgcls serve``, as it is shipped, or behind Ray Serve's own proxy in Python instead of HAProxy.

    Args:
        model: its folder.
        environment: of the server.
        is_haproxy: HAProxy is in front.
        settings: further arguments.
        folder: where it is started. Ray's workers import from there, so for another checkout it is that one.
    """
    port = int(free_ports(1)[0])
    command = imgcls("serve", "--model", model, "--port", str(port), *settings)
    with started(
        command,
        # Ray's tokens are for clusters that others reach.
        {**environment, "RAY_AUTH_MODE": "disabled", "RAY_SERVE_ENABLE_HA_PROXY": str(int(is_haproxy))},
        Server(port, CLASSIFY, 0),
        is_up=lambda: is_ready(port, "/readyz"),
        stop_signal=signal.SIGTERM,
        folder=folder,
    ) as server:
        yield server


@contextmanager
def litserve_server(model: Path, environment: Mapping[str, str], settings: Sequence[str] = ()) -> Iterator[Server]:
    """LitServe with these settings of ``benchmarks.rival_litserve``."""
    from benchmarks.rival_litserve import PATH

    port = int(free_ports(1)[0])
    command = [sys.executable, "-m", "benchmarks.rival_litserve", "--model", str(model), "--port", str(port), *settings]
    with started(
        command,
        # As Ray sets it in its workers: threads of torch only stand in the way of the engine's.
        {**environment, "OMP_NUM_THREADS": "1"},
        Server(port, PATH, 0),
        is_up=lambda: is_ready(port, "/health"),
        # It ends its workers on Ctrl-C, and on no other signal.
        stop_signal=signal.SIGINT,
    ) as server:
        yield server


@contextmanager
def started(
    command: Sequence[str],
    environment: Mapping[str, str],
    server: Server,
    *,
    is_up: Callable[[], bool],
    stop_signal: signal.Signals,
    folder: Path | None = None,
) -> Iterator[Server]:
    """Start a server, wait until it answers, and end all that it has started.

    Raises:
        RuntimeError: it does not start.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
        try:
            started = wait_for(
                _MAX_START_S,
                lambda: process.poll() is not None or is_up(),
                every_s=0.2,
            )
            if not started or process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)}: does not answer: {_end_of(output)}")
            yield server._replace(session=process.pid)
        finally:
            process.send_signal(stop_signal)
            wait_for(_MAX_END_S, lambda: process.poll() is not None and not processes_of(process.pid), every_s=0.2)
            end_session(process.pid)
            process.wait()


def is_ready(port: int, path: str) -> bool:
    """Whether a GET is answered with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def processes_of(session: int) -> list[psutil.Process]:
    """The processes of a session that run, and what they have started, also where that is a session of its own."""
    running: dict[int, psutil.Process] = {}
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE:
                running[process.pid] = process
                children.setdefault(process.ppid(), []).append(process.pid)
                if os.getsid(process.pid) == session:
                    found.add(process.pid)
    todo = list(found)
    while todo:
        of_it = [pid for pid in children.get(todo.pop(), []) if pid not in found]
        found.update(of_it)
        todo += of_it
    return [running[pid] for pid in sorted(found)]


class CpuWatch:
    """Who uses the machine's cores meanwhile."""

    def __init__(self, session: int) -> None:
        self.cores: dict[str, float] = {}
        """Cores in use on average, once the block has ended: by the name that ``MemoryWatch`` gives a server's
        processes, ``rest of the server``, ``client`` (this process and those it waited for) and ``others``."""
        self._session = session

    def __enter__(self) -> CpuWatch:
        self._start = time.monotonic()
        self._before = self._seconds()
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.monotonic() - self._start
        used = self._seconds()
        self.cores = {name: max(used[name] - self._before.get(name, 0.0), 0.0) / seconds for name in used}

    def _seconds(self) -> dict[str, float]:
        seconds = {**_cpu_s(self._session), "client": sum(os.times()[:4])}
        return {**seconds, "others": _busy_s() - sum(seconds.values())}


def _busy_s() -> float:
    """Seconds that the machine's cores have worked, since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _cpu_s(session: int) -> dict[str, float]:
    """Seconds that the processes of a session have worked, by their name."""
    totals: dict[str, float] = {}
    for process in processes_of(session):
        with suppress(psutil.Error):
            times = process.cpu_times()
            name = _title(process) or "rest of the server"
            totals[name] = totals.get(name, 0.0) + times.user + times.system
    return totals


def end_session(session: int) -> None:
    """Kill what is left of a session that this benchmark has begun."""
    for process in processes_of(session):
        with suppress(psutil.Error):
            process.kill()


def pids_of(session: int, title: str) -> list[int]:
    """Ids of the processes of a session that ``MemoryWatch`` knows by this name."""
    return sorted(process.pid for process in processes_of(session) if _title(process) == title)


def _title(process: psutil.Process) -> str | None:
    with suppress(psutil.Error, IndexError):
        name = os.path.basename(process.cmdline()[0])
        return next((title for start, title in _TITLES.items() if name.startswith(start)), None)
    return None


def _end_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read()[-2000:].decode("utf-8", "replace")


class Memory(NamedTuple):
    """Of the processes of one name together, at one moment."""

    time: float
    """Seconds of the monotonic clock."""
    title: str
    rss: int
    """Bytes."""
    uss: int
    """Bytes that would be free if the processes ended."""


class MemoryWatch:
    """Measures the processes through which requests go, every so often, in a thread of its own."""

    def __init__(self, session: int, *, interval_s: float = 2.0) -> None:
        self.samples: list[Memory] = []
        self._session = session
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-watch", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def mean(self, title: str, measure: str, start: float, end: float) -> float:
        """Mean bytes between two moments of the monotonic clock; ``rss`` or ``uss``."""
        values = [
            getattr(sample, measure) for sample in self.samples if sample.title == title and start <= sample.time <= end
        ]
        return sum(values) / len(values) if values else float("nan")

    def titles(self) -> list[str]:
        return sorted({sample.title for sample in self.samples})

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            now = time.monotonic()
            totals: dict[str, list[int]] = {}
            for process in processes_of(self._session):
                title = _title(process)
                if title is None:
                    continue
                with suppress(psutil.Error):
                    memory = process.memory_full_info()
                    total = totals.setdefault(title, [0, 0])
                    total[0] += memory.rss
                    total[1] += memory.uss
            self.samples += [Memory(now, title, rss, uss) for title, (rss, uss) in totals.items()]
