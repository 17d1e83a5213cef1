"""Load an HTTP/1.1 server from a process of its own, at little cost for each request.

The client shares its cores with the server that it measures, so it does what the wire needs and no more: requests are
bytes made beforehand, answers are read by status and length.

In a closed loop each client asks again when it has its answer. In an open one requests come at their own rate, whether
answers come or not; an answer's time counts from the moment when its request was due, so that a server that stands
still, or a client that falls behind, cannot hide it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import time
from array import array
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import uvloop

from benchmarks.http_wire import Answer, read_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection as Pipe

GOOD = "200"
# Outcomes that are no status of an answer.
ABORTED = "aborted"
TIMEOUT = "timeout"
CONNECTION_ERROR = "connection_error"
NO_CONNECTION = "no_connection"

_MAX_ABORT_S = 0.05
# Before servers close connections on which nothing is asked; uvicorn does so after five seconds.
_MAX_IDLE_S = 2.0
_RECONNECT_S = 0.05


class Kind(NamedTuple):
    """One kind of request."""

    name: str
    content: bytes
    """As it goes over the wire: head and body."""
    weight: float = 1.0
    """How often it is drawn, relative to the others."""


class ClosedLoop(NamedTuple):
    """Clients that ask again when they have their answer."""

    clients: int


class OpenLoop(NamedTuple):
    """Requests that come at their own rate."""

    rate: float
    """Requests per second."""
    is_even: bool = False
    """Evenly spaced; else as independent callers come: a Poisson process."""
    max_connections: int = 1000
    """Requests that find them all in use count as ``no_connection``."""


@dataclass(frozen=True)
class Load:
    """What is asked, how often and for how long."""

    port: int
    kinds: Sequence[Kind]
    arrivals: ClosedLoop | OpenLoop
    seconds: float
    warm_up_s: float = 0.0
    """Before those seconds; what ends then is not counted."""
    abort_share: float = 0.0
    """Of the requests: their client closes the connection 0 to 50 ms later, without waiting for the answer."""
    timeout_s: float = 60.0
    tag: bytes = b""
    """What stands, in the body of an answer, before a value in quotation marks that is to be kept."""
    host: str = "127.0.0.1"
    source: str | None = None
    """Address that its connections come from; the system chooses by default."""
    niceness: int = 0
    """Of a process of its own: a load that is not measured itself must not take the cores from what is."""
    seed: int = 0


class Outcome(NamedTuple):
    """What can become of a request."""

    kind: str
    """Name of the request's kind."""
    result: str
    """Status of the answer, or ``aborted``, ``timeout``, ``connection_error`` or ``no_connection``."""
    tag: str = ""


@dataclass
class LoadResult:
    """What became of the requests, one entry each, in the order in which they ended."""

    start: float
    """When the warm-up was over, seconds of the monotonic clock, which all processes share."""
    seconds: float
    outcomes: list[Outcome]
    """Those that came about."""
    codes: np.ndarray
    """int16 (N,), position in ``outcomes``."""
    ended: np.ndarray
    """float64 (N,), seconds since ``start``."""
    latencies: np.ndarray
    """float32 (N,), seconds."""
    cpu_share: float
    """Of one core, that the client itself took."""
    max_lag_s: float
    """How late a request was at most, because the client had no time for it."""
    examples: dict[str, str] = field(default_factory=dict)
    """Of each status but 200, how one body begins."""

    def counts(self, kind: str | None = None) -> dict[str, int]:
        """How many requests came to which result, of one kind or of all."""
        counted: Counter[str] = Counter()
        for code, count in Counter(self.codes.tolist()).items():
            outcome = self.outcomes[code]
            if kind is None or outcome.kind == kind:
                counted[outcome.result] += count
        return dict(sorted(counted.items()))

    def num_failed(self) -> int:
        """Requests without a good answer."""
        return sum(count for result, count in self.counts().items() if result != GOOD)

    def unknown_statuses(self, known: Sequence[int]) -> list[str]:
        """Statuses of answers that are none of these."""
        statuses = {outcome.result for outcome in self.outcomes if outcome.result.isdigit()}
        return sorted(statuses - {str(status) for status in known})

    def is_good(self) -> np.ndarray:
        """bool (N,), whether a request was answered with 200."""
        return self._is(lambda outcome: outcome.result == GOOD)

    def has_tag(self, tag: str) -> np.ndarray:
        """bool (N,), whether an answer had this value."""
        return self._is(lambda outcome: outcome.tag == tag)

    def good_rate(self) -> float:
        """Good answers per second."""
        return float(np.count_nonzero(self.is_good() & (self.ended <= self.seconds)) / self.seconds)

    def good_per_second(self) -> list[int]:
        """Good answers in each second."""
        ends = np.arange(0, np.ceil(self.seconds) + 1)
        return [int(count) for count in np.histogram(self.ended[self.is_good()], ends)[0]]

    def latency(self, percentile: float) -> float:
        """Of the good answers, seconds: 50 for the median, 100 for the longest."""
        good = self.latencies[self.is_good()]
        return float(np.percentile(good, percentile)) if len(good) else float("nan")

    def _is(self, condition: Callable[[Outcome], bool]) -> np.ndarray:
        chosen = np.array([condition(outcome) for outcome in self.outcomes], dtype=bool)
        return chosen[self.codes] if len(chosen) else np.zeros(0, dtype=bool)


class _Connection(asyncio.Protocol):
    """One connection to the server, with at most one request on it."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._kind: Kind | None = None
        """Of the request that is not answered yet."""
        self._due = 0.0
        self._aborts = False
        self._timer: asyncio.TimerHandle | None = None
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods and not the class

    def send(self, kind: Kind, due: float, abort_after_s: float | None) -> None:
        assert self._transport is not None
        self._kind, self._due, self._received = kind, due, b""
        self._aborts = abort_after_s is not None
        if self._transport.is_closing():
            self._finish(CONNECTION_ERROR)
            return
        wait_s = self._run.load.timeout_s - (time.monotonic() - due) if abort_after_s is None else abort_after_s
        self._timer = self._run.loop.call_later(max(wait_s, 0), self._give_up)
        self._transport.write(kind.content)

    def data_received(self, data: bytes) -> None:
        if self._kind is None:  # nobody asked, as when a server tells why it closes
            self.close()
            return
        if self._aborts:
            return
        self._received = self._received + data if self._received else data
        self._read(is_end=False)

    def connection_lost(self, error: Exception | None) -> None:
        if self._kind is None:
            self._run.forget(self)
            return
        if not self._aborts:
            self._read(is_end=True)
        if self._kind is not None:
            self._finish(ABORTED if self._aborts else CONNECTION_ERROR)

    def close(self) -> None:
        """End the connection at once, as a client does that goes away."""
        if self._transport is not None:
            self._transport.abort()

    def _read(self, *, is_end: bool) -> None:
        try:
            answer = read_answer(self._received, is_end=is_end)
        except ValueError:
            self._finish(CONNECTION_ERROR)
            return
        if answer is not None:
            self._finish(
                str(answer.status), answer, is_usable=not (answer.is_last or is_end or self._is_still_sending())
            )

    def _is_still_sending(self) -> bool:
        """Whether the answer came before the request had gone out: the server has no use for the rest, and closes."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def _give_up(self) -> None:
        self._finish(ABORTED if self._aborts else TIMEOUT)

    def _finish(self, result: str, answer: Answer | None = None, *, is_usable: bool = False) -> None:
        kind, self._kind = self._kind, None
        assert kind is not None
        if self._timer is not None:
            self._timer.cancel()
        if not is_usable:
            self.close()
        self._run.finish(self if is_usable else None, kind, result, self._due, answer)


class _Run:
    """One load on its way."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.loop = asyncio.get_running_loop()
        self._random = random.Random(load.seed)
        self._weights = [kind.weight for kind in load.kinds]
        self._idle: list[_Connection] = []
        """The last used comes last, and is used next."""
        self._num_open = 0
        """Requests that have a connection, or wait for one to be made."""
        self._connecting: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()
        self._codes: dict[Outcome, int] = {}
        self._result_codes = array("h")
        self._ended = array("d")
        self._latencies = array("f")
        self._examples: dict[str, str] = {}
        self._max_lag_s = 0.0
        self._start = time.monotonic() + load.warm_up_s
        self._end = self._start + load.seconds
        self._next_due = self._start - load.warm_up_s
        self._is_arriving = True

    async def run(self) -> LoadResult:
        """Ask until the time is over, and wait for the answers that are on their way."""
        cpu, began = time.process_time(), time.monotonic()
        arrivals = self.load.arrivals
        if isinstance(arrivals, ClosedLoop):
            for _ in range(arrivals.clients):
                self._ask(time.monotonic())
            self.loop.call_later(self._end - time.monotonic(), self._stop_arriving)
        else:
            self._arrive(arrivals)
        await self._done.wait()
        cpu_share = (time.process_time() - cpu) / (time.monotonic() - began)
        for connection in self._idle:
            connection.close()
        return LoadResult(
            start=self._start,
            seconds=self._end - self._start,
            outcomes=list(self._codes),
            codes=np.array(self._result_codes),
            ended=np.array(self._ended),
            latencies=np.array(self._latencies),
            cpu_share=cpu_share,
            max_lag_s=self._max_lag_s,
            examples=self._examples,
        )

    def finish(
        self, connection: _Connection | None, kind: Kind, result: str, due: float, answer: Answer | None = None
    ) -> None:
        """Count a request that has come to its end; its connection, if it can be used again, is idle now."""
        self._num_open -= 1
        now = time.monotonic()
        if connection is not None:
            connection.idle_since = now
            self._idle.append(connection)
        self._count(kind, result, due, now, answer)
        if not self._is_arriving:
            self._stop_if_done()
        elif isinstance(self.load.arrivals, ClosedLoop):
            self._num_open += 1  # it is the same client that asks again, perhaps after a pause
            if result == CONNECTION_ERROR:
                self.loop.call_later(_RECONNECT_S, self._ask_again)
            else:
                self._ask_again()

    def stop(self) -> None:
        """Ask no more; what is on its way comes to its end."""
        if self._is_arriving:
            self._end = time.monotonic()
            self._stop_arriving()

    def forget(self, connection: _Connection) -> None:
        """An idle connection was closed."""
        if connection in self._idle:
            self._idle.remove(connection)

    def _ask_again(self) -> None:
        self._num_open -= 1
        if self._is_arriving:
            self._ask(time.monotonic())
        else:
            self._stop_if_done()

    def _arrive(self, arrivals: OpenLoop) -> None:
        """Send what is due, and come back when the next is."""
        if not self._is_arriving:
            return
        now = time.monotonic()
        while self._next_due <= now and self._next_due < self._end:
            self._max_lag_s = max(self._max_lag_s, now - self._next_due)
            self._ask(self._next_due)
            self._next_due += 1 / arrivals.rate if arrivals.is_even else self._random.expovariate(arrivals.rate)
        if self._next_due < self._end:
            self.loop.call_later(self._next_due - now, self._arrive, arrivals)
        else:
            self._stop_arriving()

    def _stop_arriving(self) -> None:
        self._is_arriving = False
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        if self._num_open == 0:
            self._done.set()

    def _ask(self, due: float) -> None:
        kinds = self.load.kinds
        kind = kinds[0] if len(kinds) == 1 else self._random.choices(kinds, self._weights)[0]
        aborts = self.load.abort_share and self._random.random() < self.load.abort_share
        abort_after_s = self._random.uniform(0, _MAX_ABORT_S) if aborts else None
        arrivals = self.load.arrivals
        if isinstance(arrivals, OpenLoop) and self._num_open >= arrivals.max_connections:
            self._count(kind, NO_CONNECTION, due, time.monotonic())
            return
        self._num_open += 1
        while self._idle and self._idle[0].idle_since < time.monotonic() - _MAX_IDLE_S:
            self._idle.pop(0).close()
        if self._idle:
            self._idle.pop().send(kind, due, abort_after_s)
            return
        task = self.loop.create_task(self._connect(kind, due, abort_after_s))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, kind: Kind, due: float, abort_after_s: float | None) -> None:
        source = (self.load.source, 0) if self.load.source else None
        try:
            async with asyncio.timeout(self.load.timeout_s):
                _, connection = await self.loop.create_connection(
                    lambda: _Connection(self), self.load.host, self.load.port, local_addr=source
                )
        except TimeoutError:
            self.finish(None, kind, TIMEOUT, due)
        except OSError:
            self.finish(None, kind, CONNECTION_ERROR, due)
        else:
            connection.send(kind, due, abort_after_s)

    def _count(self, kind: Kind, result: str, due: float, now: float, answer: Answer | None = None) -> None:
        if now < self._start:
            return
        tag = ""
        if answer is not None:
            if self.load.tag:
                tag = answer.body.partition(self.load.tag)[2].partition(b'"')[0].decode("ascii", "replace")
            if result != GOOD and result not in self._examples:
                self._examples[result] = answer.body[:200].decode("utf-8", "replace")
        self._result_codes.append(self._codes.setdefault(Outcome(kind.name, result, tag), len(self._codes)))
        self._ended.append(now - self._start)
        self._latencies.append(now - due)


async def run_load(load: Load) -> LoadResult:
    """Load a server from this process."""
    return await _Run(load).run()


class Loading:
    """A load that runs in a process of its own."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def stop(self) -> None:
        """Let it end before its time; answers that are on their way are waited for."""
        self._pipe.send_bytes(b"stop")

    def wait(self) -> LoadResult:
        """What became of the requests, once all have come to their end."""
        try:
            result: LoadResult = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the load generator died") from None
        return result


@contextmanager
def loading(load: Load) -> Iterator[Loading]:
    """Load a server from a process of its own, which ends with the context."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_and_send, args=(load, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Loading(ours)
    finally:
        process.kill()
        process.join()
        ours.close()


def measure(load: Load) -> LoadResult:
    """Load a server from a process of its own until its time is over."""
    with loading(load) as loaded:
        return loaded.wait()


def _run_and_send(load: Load, pipe: Pipe) -> None:
    # Ctrl-C goes to the whole group; who started this process ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(load.niceness)
    result = uvloop.run(_run_until_told(load, pipe))
    # The event loop watched the pipe, and left it so that a large result would not fit in at once.
    os.set_blocking(pipe.fileno(), True)
    pipe.send(result)


async def _run_until_told(load: Load, pipe: Pipe) -> LoadResult:
    run = _Run(load)

    def stop() -> None:
        # Whatever comes means stop; so does the pipe's end, because then nobody is there to be told.
        run.loop.remove_reader(pipe.fileno())
        run.stop()

    run.loop.add_reader(pipe.fileno(), stop)
    return await run.run()
