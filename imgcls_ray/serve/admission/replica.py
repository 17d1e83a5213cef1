"""Admission in the replica: its ASGI application before and around the routes.

Who may not ask, what is too large and what there is no room for is refused here, before anything is read. Nothing a
caller sends reaches a log or a header unchecked, no request outlives its deadline, and whatever goes wrong inside, the
answer is typed and says nothing of the inside.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from imgcls_ray.serve.admission.request import (
    CONTEXT_KEY,
    RequestContext,
    announced_bytes,
    check_head,
    headers_of,
    request_id_of,
    send_error,
    with_headers,
)
from imgcls_ray.serve.admission.room import Reservation
from imgcls_ray.serve.errors import ApiError, ErrorCode, failed, no_room, refuse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from imgcls_ray.serve.admission.room import Room
    from imgcls_ray.serve.keys import ApiKeys
    from imgcls_ray.serve.metrics import Metrics

logger = logging.getLogger(__name__)
access = logging.getLogger("imgcls_ray.serve.access")

_OPEN_PATHS = frozenset(
    {"/", "/docs", "/openapi.json", "/healthz", "/readyz", "/health", "/v2", "/v2/health/live", "/v2/health/ready"}
)
_OPEN_PREFIX = "/assets/"
# What metrics and logs tell apart. Never the path itself: callers could make up as many as they like.
_ENDPOINTS = _OPEN_PATHS | {"/v1/classify", "/v1/model", "/image-classification"}
_ENDPOINT_PREFIXES = (_OPEN_PREFIX, "/v2/models/")
_GONE = 499  # nginx's status for callers that went away: it stands in logs and counts, and is sent to nobody
_QUIET_PATHS = frozenset({"/healthz", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"})


class ReplicaAdmission:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys, room: Room, request_timeout_s: float, metrics: Metrics) -> None:
        self._app = app
        self._keys = keys
        self.room = room
        self._request_timeout_s = request_timeout_s
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return
        method = scope["method"]
        scope = dict(scope)  # the server's stays as it is
        request = _Request(scope, receive, send, self.room)
        context = request.context
        if method == "HEAD" and _is_open(context.path):
            scope["method"] = "GET"  # of whose answer the body is left out
        try:
            self._admit(method, request)
            async with asyncio.timeout(self._request_timeout_s):
                await self._app(scope, request.receive, request.send)
        except TimeoutError:
            await request.fail(
                refuse(ErrorCode.DEADLINE_EXCEEDED, f"not done within {self._request_timeout_s:g} seconds")
            )
        except ApiError as error:
            await request.fail(error)
        except ClientDisconnect:  # answered like every exception already, to nobody
            request.status = _GONE
            context.error_code = ""
        except asyncio.CancelledError:
            request.status = request.status or _GONE
            raise
        except Exception:
            logger.exception("a request failed", extra={"imgcls_request_id": context.request_id})
            await request.fail(failed())
        finally:
            context.reservation.give_back()
            self._tell(method, request)

    def _admit(self, method: str, request: _Request) -> None:
        check_head(request.scope)
        if self._keys and not _is_open(request.context.path):
            shown = request.headers.get(b"x-api-key") or _bearer(request.headers.get(b"authorization", b""))
            if not self._keys.admit(shown):
                raise refuse(ErrorCode.UNAUTHORIZED, "a key is needed: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        if method != "POST":
            return
        reservation = request.context.reservation
        if not reservation.ask():
            raise no_room()
        reservation.check_announced(announced_bytes(request.headers))

    def _tell(self, method: str, request: _Request) -> None:
        context = request.context
        seconds = time.perf_counter() - request.start
        endpoint = _endpoint(context.path)
        self._metrics.request(endpoint, request.status, seconds)
        if context.path in _QUIET_PATHS and request.status < 400:
            return
        access.info(
            "%s %s %d %.1f ms",
            json.dumps(method[:20])[1:-1],
            # Quotation marks, line breaks, escape sequences: as JSON writes them, whatever the log's format is.
            json.dumps(context.path[:200])[1:-1],
            request.status,
            1000 * seconds,
            extra={
                "imgcls_request_id": context.request_id,
                "imgcls_endpoint": endpoint,
                "imgcls_status": request.status,
                "imgcls_code": context.error_code,
                "imgcls_ms": round(1000 * seconds, 1),
                "imgcls_bytes": context.reservation.num_bytes,
                **context.log_fields,
            },
        )


class _Request:
    """One request and its answer: counts what comes, and adds to what goes."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, room: Room) -> None:
        self.start = time.perf_counter()
        self.scope = scope
        self.headers = headers_of(scope)
        # Ray Serve mounts an application under its route_prefix, which ASGI leaves in the path.
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        context: RequestContext | None = scope.get(CONTEXT_KEY)
        if context is None:  # no proxy in this process has asked for room
            context = scope[CONTEXT_KEY] = RequestContext(request_id_of(self.headers), path, Reservation(room))
        context.path = path
        self.context = context
        self.status = 0
        self._is_head = scope["method"] == "HEAD"
        self._receive, self._send = receive, send

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            reservation = self.context.reservation
            reservation.add_bytes(len(message.get("body", b"")))
            if not message.get("more_body", False):
                reservation.release_slot()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = with_headers(message.get("headers", ()), self.context.request_id)
        elif self._is_head and message["type"] == "http.response.body":
            message["body"] = b""
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """Answer with an error, unless an answer is on its way already."""
        self.context.error_code = error.code
        if self.status:
            return
        await send_error(self.send, error, self.context.path, self.context.request_id)


def _is_open(path: str) -> bool:
    """Whether no key is needed."""
    return path in _OPEN_PATHS or path.startswith(_OPEN_PREFIX)


def _endpoint(path: str) -> str:
    if path in _ENDPOINTS:
        return path
    return next((prefix for prefix in _ENDPOINT_PREFIXES if path.startswith(prefix)), "other")


def _bearer(value: bytes) -> bytes:
    scheme, _, key = value.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""
