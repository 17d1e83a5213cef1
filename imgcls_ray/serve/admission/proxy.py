"""Admission in Ray Serve's HTTP servers: in its proxies, and in replicas that are asked directly.

Serve's proxy takes in a whole body, of any size, before a replica sees its first byte; headers let callers turn Serve's
deadline off; and Serve's own errors are plain text. Named in ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` (see
``SERVE_ENVIRONMENT``), it must be in the environment of every node.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from typing import TYPE_CHECKING

from imgcls_ray.serve.admission.request import (
    CONTEXT_KEY,
    PAUSE_HEADER,
    REFUSED_HEADER,
    RequestContext,
    announced_bytes,
    check_head,
    headers_of,
    request_id_of,
    send_error,
    with_headers,
)
from imgcls_ray.serve.admission.room import Reservation
from imgcls_ray.serve.admission.slow_callers import SlowCallers
from imgcls_ray.serve.errors import ApiError, ErrorCode, failed, no_room, not_found, refuse, too_large

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from starlette.middleware import Middleware
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from imgcls_ray.serve.admission.room import Room

# What Ray Serve must find in the environment of its processes; an operator's own values win.
SERVE_ENVIRONMENT = {
    # HAProxy before the replicas instead of a proxy in Python, which takes several times as long for a request as
    # everything else together. ray[serve] brings it, for Linux.
    "RAY_SERVE_ENABLE_HA_PROXY": "1" if sys.platform == "linux" else "0",
    # The replica's one event loop answers requests itself: nothing in this package blocks it.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # How long a client may be silent in the middle of a request, seconds. Serve's default is an hour.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    # A replica in overload is slow to answer HAProxy's question whether it lives, and says 503 to those it has no room
    # for. Taken for dead after Serve's two unanswered questions, its callers would wait in the proxy in Python instead.
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "6",
    # HAProxy tells a process in Python of every request, which counts it once more than the replicas do
    # (imgcls_requests_total): a twentieth of a two-core machine in overload.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "imgcls_ray.serve.admission.proxy:middlewares",
}
MAX_BYTES_VARIABLE = "IMGCLS_MAX_REQUEST_BYTES"
_DEFAULT_MAX_BYTES = 32 * 2**20
_MAX_COUNT_DIGITS = 6

# The first two move Serve's deadline and its watch for callers that go away; the next are of features not used here;
# the last one is HAProxy's, and has been read.
_REPLACED = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve-multiplexed-model-id",
        b"x-session-id",
        b"x-request-id",
        REFUSED_HEADER,
    }
)


def _of_serve(status: int) -> ApiError:
    """What Serve means by a status of its own."""
    if status == 404:
        return not_found()
    if status == 408:
        return refuse(ErrorCode.DEADLINE_EXCEEDED, "not done within the deadline")
    if status in (429, 503):
        return refuse(ErrorCode.OVERLOADED, "no replica has room; try again later")
    return failed()


class LocalReplica:
    """The replica in this process, if there is one: how much room it has.

    In overload most requests are refused, and it costs less to do that before Ray Serve has begun with one.
    """

    def __init__(self) -> None:
        self.room: Room | None = None
        self.num_refused = 0
        """Since the replica asked last."""


LOCAL_REPLICA = LocalReplica()


def middlewares() -> list[Middleware]:
    """For Ray Serve, which calls this once in each of its HTTP servers."""
    from starlette.middleware import Middleware

    max_bytes = int(os.environ.get(MAX_BYTES_VARIABLE, _DEFAULT_MAX_BYTES))
    return [
        Middleware(ProxyAdmission, max_bytes=max_bytes),
        Middleware(SlowCallers),
    ]  # the last one is the first to see a request


class ProxyAdmission:
    """ASGI middleware around Ray Serve itself."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        _keep_trailers_apart()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        room = LOCAL_REPLICA.room
        if room is None or scope["method"] != "POST":
            await self._admit(scope, receive, send)
            return
        headers = headers_of(scope)
        LOCAL_REPLICA.num_refused += _number(headers.get(REFUSED_HEADER, b""))
        reservation = Reservation(room)
        if not reservation.ask():
            LOCAL_REPLICA.num_refused += 1
            error = no_room()
            if pause_ms := round(1000 * room.pause_s()):
                error.headers[PAUSE_HEADER.decode()] = str(pause_ms)
            await send_error(send, error, scope["path"], request_id_of(headers))
            return
        try:
            await self._admit(scope, receive, send, reservation)
        finally:
            reservation.give_back()

    async def _admit(self, scope: Scope, receive: Receive, send: Send, reservation: Reservation | None = None) -> None:
        scope = dict(scope)  # the server's stays as it is
        request = _Request(scope, receive, send, self._max_bytes)
        if reservation is not None:
            scope[CONTEXT_KEY] = RequestContext(request.request_id, request.path, reservation)
        try:
            check_head(scope)
            scope["headers"] = [*_without_steering(scope["headers"]), (b"x-request-id", request.request_id.encode())]
            if announced_bytes(request.headers) > self._max_bytes:
                raise too_large(self._max_bytes)
        except ApiError as error:
            await request.refuse(error)
            return
        try:
            await self._app(scope, request.receive, request.send)
        except Exception:
            await request.refuse(too_large(self._max_bytes) if request.is_too_large else failed())
            raise
        except asyncio.CancelledError:
            # Serve's own, of a request whose caller seems to have gone.
            if not request.is_too_large:
                raise
        if request.is_too_large:
            await request.refuse(too_large(self._max_bytes))


@functools.cache
def _keep_trailers_apart() -> None:
    """Let uvicorn, Serve's HTTP server, not take the trailers behind a chunked body for headers.

    It collects them in the list that it has given to the application, which would find a key or an encoding there that
    no proxy before it has seen.
    """
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    complete = HttpToolsProtocol.on_headers_complete

    def on_headers_complete(protocol: HttpToolsProtocol) -> None:
        complete(protocol)
        protocol.headers = list(protocol.headers)

    HttpToolsProtocol.on_headers_complete = on_headers_complete  # type: ignore[method-assign, assignment]


class _Request:
    """One request: counts what comes, and dresses Serve's own errors."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_bytes: int) -> None:
        self.is_too_large = False
        self.path: str = scope["path"]
        self.headers = headers_of(scope)
        self.request_id = request_id_of(self.headers)
        self._receive, self._send = receive, send
        self._left = max_bytes
        self._is_answered = False
        self._replaced: ApiError | None = None

    async def receive(self) -> Message:
        if self.is_too_large:
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                # For what is inside, the caller has gone; to the caller we say why.
                self.is_too_large = True
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if self.is_too_large and not self._is_answered:
            return
        if message["type"] == "http.response.start":
            headers = dict(message.get("headers", ()))
            is_plain = headers.get(b"content-type", b"").startswith(b"text/plain")
            # Serve's own pages, for load balancers, stay as they are.
            if message["status"] >= 400 and is_plain and not self.path.startswith("/-/"):
                self._replaced = _of_serve(message["status"])
                return
            self._is_answered = True
            message["headers"] = with_headers(_without_doubles(message.get("headers", ())), self.request_id)
        elif self._replaced is not None:
            if not message.get("more_body", False):
                await self.refuse(self._replaced)
            return
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        if self._is_answered:
            return
        self._is_answered = True
        await send_error(self._send, error, self.path, self.request_id)


def _number(value: bytes) -> int:
    # Whoever gets past HAProxy may write anything.
    return int(value) if value.isdigit() and len(value) <= _MAX_COUNT_DIGITS else 0


def _without_steering(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """A request's headers without those that Serve would follow.

    Raises:
        ApiError: one of them is no text; Serve would fail on it.
    """
    for name, value in headers:
        if not name.isascii():
            raise refuse(ErrorCode.BAD_REQUEST, "the name of a header is not ASCII")
        # Serve takes both for the same, as proxies before it write one for the other.
        if name.replace(b"_", b"-") not in _REPLACED:
            yield name, value
        elif name != b"x-request-id" and not _is_text(value):
            raise refuse(ErrorCode.BAD_REQUEST, f"the header {name.decode()} is not UTF-8")


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _without_doubles(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Serve adds the request's id to every answer, which has it already."""
    result: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        if name.lower() != b"x-request-id" or all(other.lower() != b"x-request-id" for other, _ in result):
            result.append((name, value))
    return result
