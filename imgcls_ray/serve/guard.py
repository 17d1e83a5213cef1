"""The first to see a request and the last to see its answer.

Who may not ask, what is too large and what there is no room for is turned away here, before anything is read; nothing a
caller sends reaches a log or a header unchecked; and whatever goes wrong inside, the answer is typed and says nothing
of the inside.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect

from imgcls_ray.serve.errors import ApiError, ErrorCode, error_body, failed, no_room, not_found, refuse, too_large

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping

    from imgcls_ray.serve.keys import ApiKeys
    from imgcls_ray.serve.metrics import Metrics

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("imgcls_ray.serve")
access = logging.getLogger("imgcls_ray.serve.access")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_OPEN_PATHS = frozenset(
    {"/", "/docs", "/openapi.json", "/healthz", "/readyz", "/health", "/v2", "/v2/health/live", "/v2/health/ready"}
)
_OPEN_PREFIX = "/assets/"
# What metrics and logs tell apart. Never the path itself: callers could make up as many as they like.
_ENDPOINTS = _OPEN_PATHS | {"/v1/classify", "/v1/model", "/image-classification"}
_ENDPOINT_PREFIXES = (_OPEN_PREFIX, "/v2/models/")
# How long a request whose body is on its way keeps a place. Bodies of quick callers are there much sooner; slow ones
# would keep everybody else out.
_PLACE_S = 0.5
# Of the head of a request. Those of browsers and clients are a tenth of it.
_MAX_PATH_CHARS = 4096
_MAX_QUERY_BYTES = 4096
_MAX_HEADERS = 200
_GONE = 499  # nginx's status for callers that went away: it stands in logs and counts, and is sent to nobody
_QUIET_PATHS = frozenset({"/healthz", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"})
# Of the page and of the documentation, which bring everything with them; answers in JSON are never shown as a page.
_CSP = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", _CSP),
]


@dataclass
class Room:
    """What is in the replica now, and how much may be."""

    max_bytes: int
    max_images: int
    num_images: Callable[[], int]
    num_bytes: int = 0

    def __post_init__(self) -> None:
        self._places: dict[object, float] = {}

    def is_full(self) -> bool:
        """Whether there is no room for a single image, with one for each request that has a place."""
        while self._places and next(iter(self._places.values())) < time.monotonic() - _PLACE_S:
            del self._places[next(iter(self._places))]
        # Heads without bodies cost their callers nothing: they alone do not fill the room.
        return self.num_images() + min(len(self._places), (self.max_images + 1) // 2) >= self.max_images

    def take_place(self) -> object:
        """Keep room for an image of a request whose body is still to come, for half a second at most.

        Without that, everyone who comes while the next body is read would be let in for the one image that there is
        room for, and be refused when all is read.
        """
        place = object()
        self._places[place] = time.monotonic()
        return place

    def leave_place(self, place: object) -> None:
        """Give the room back: the body is there, and its images count themselves; or there will be none."""
        self._places.pop(place, None)

    def check_bytes(self, more: int = 0) -> None:
        """Refuse what there is no room for.

        Raises:
            ApiError: there are too many bytes, with so many more.
        """
        if self.num_bytes + more > self.max_bytes:
            raise no_room("bytes")


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: AsgiApp,
        *,
        keys: ApiKeys,
        room: Room,
        max_request_bytes: int,
        request_timeout_s: float,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._keys = keys
        self.room = room
        self._max_request_bytes = max_request_bytes
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
        exchange = _Exchange(scope, receive, send, self.room, self._max_request_bytes)
        if method == "HEAD" and _is_open(exchange.path):
            scope["method"] = "GET"  # of whose answer the body is left out
        try:
            self._admit(method, exchange)
            async with asyncio.timeout(self._request_timeout_s):
                await self._app(scope, exchange.receive, exchange.send)
        except TimeoutError:
            await exchange.fail(
                refuse(ErrorCode.DEADLINE_EXCEEDED, f"not done within {self._request_timeout_s:g} seconds")
            )
        except ApiError as error:
            await exchange.fail(error)
        except ClientDisconnect:  # answered like every exception already, to nobody
            exchange.status = _GONE
            scope.pop("imgcls_code", None)
        except asyncio.CancelledError:
            exchange.status = exchange.status or _GONE
            raise
        except Exception:
            logger.exception("a request failed", extra={"imgcls_request_id": exchange.request_id})
            await exchange.fail(failed())
        finally:
            self.room.num_bytes -= exchange.num_bytes
            self.room.leave_place(exchange.place)
            self._tell(method, scope, exchange)

    def _admit(self, method: str, exchange: _Exchange) -> None:
        path = exchange.path
        check_head(exchange.scope)
        if self._keys and not _is_open(path):
            shown = exchange.headers.get(b"x-api-key") or _bearer(exchange.headers.get(b"authorization", b""))
            if not self._keys.admit(shown):
                raise refuse(ErrorCode.UNAUTHORIZED, "a key is needed: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        if method != "POST":
            return
        if exchange.place is None:
            if self.room.is_full():
                raise no_room()
            exchange.place = self.room.take_place()
        num_bytes = announced_bytes(exchange.headers)
        exchange.check_size(num_bytes)
        self.room.check_bytes(num_bytes)

    def _tell(self, method: str, scope: Scope, exchange: _Exchange) -> None:
        seconds = time.perf_counter() - exchange.start
        path = exchange.path
        endpoint = _endpoint(path)
        self._metrics.request(endpoint, exchange.status, seconds)
        if path in _QUIET_PATHS and exchange.status < 400:
            return
        access.info(
            "%s %s %d %.1f ms",
            json.dumps(method[:20])[1:-1],
            # Quotation marks, line breaks, escape sequences: as JSON writes them, whatever the log's format is.
            json.dumps(path[:200])[1:-1],
            exchange.status,
            1000 * seconds,
            extra={
                "imgcls_request_id": exchange.request_id,
                "imgcls_endpoint": endpoint,
                "imgcls_status": exchange.status,
                "imgcls_code": exchange.code or scope.get("imgcls_code", ""),
                "imgcls_ms": round(1000 * seconds, 1),
                "imgcls_bytes": exchange.num_bytes,
                **scope.get("imgcls_log", {}),
            },
        )


class _Exchange:
    """One request and its answer: counts what comes, and adds to what goes."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, room: Room, max_bytes: int) -> None:
        self.start = time.perf_counter()
        self.scope = scope
        self._is_head = scope["method"] == "HEAD"
        self.headers = headers_of(scope)
        self.request_id = request_id_of(self.headers)
        # Ray Serve mounts an application under its route_prefix, which ASGI leaves in the path.
        self.path: str = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        scope["imgcls_request_id"], scope["imgcls_path"] = self.request_id, self.path
        scope["imgcls_take"] = self.take
        self.place: object = scope.get("imgcls_place")
        """Taken at the door, if there is one in this process."""
        self.num_bytes = 0
        self.status = 0
        self.code = ""
        self._receive, self._send = receive, send
        self._room, self._max_bytes = room, max_bytes

    def check_size(self, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            raise too_large(self._max_bytes)

    def take(self, num_bytes: int) -> None:
        """Count what came in for this request, also from addresses in it.

        Raises:
            ApiError: it is too large, or there is no room for it.
        """
        self.num_bytes += num_bytes
        self._room.num_bytes += num_bytes
        self.check_size(self.num_bytes)
        self._room.check_bytes()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.take(len(message.get("body", b"")))
            if not message.get("more_body", False):
                self._room.leave_place(self.place)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = with_headers(message.get("headers", ()), self.request_id)
        elif self._is_head and message["type"] == "http.response.body":
            message["body"] = b""
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """Answer with an error, unless an answer is on its way already."""
        self.code = error.code
        if self.status:
            return
        await send_error(self.send, error, self.path, self.request_id)


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers of a request; of several with one name the first counts."""
    return dict(reversed(scope["headers"]))


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """The caller's, if it may stand in a log and a header; otherwise a new one."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def with_headers(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with those that every answer has."""
    found = list(headers)
    names = {name.lower() for name, _ in found}
    found += [header for header in _ALWAYS if header[0] not in names]
    if b"x-request-id" not in names:
        found.append((b"x-request-id", request_id.encode()))
    return found


def check_head(scope: Scope) -> None:
    """Refuse a head that would cost more to look at than a picture to label.

    Raises:
        ApiError: its address is too long, or it has too many headers.
    """
    if len(scope["path"]) > _MAX_PATH_CHARS:
        raise not_found()
    if len(scope.get("query_string", b"")) > _MAX_QUERY_BYTES:
        raise refuse(ErrorCode.BAD_REQUEST, f"what follows ? in the address is longer than {_MAX_QUERY_BYTES} bytes")
    if len(scope["headers"]) > _MAX_HEADERS:
        raise refuse(ErrorCode.BAD_REQUEST, f"the request has more than {_MAX_HEADERS} headers")


def announced_bytes(headers: Mapping[bytes, bytes]) -> int:
    """How large the body will be, as its caller says; 0 if he does not, or not in numbers."""
    announced = headers.get(b"content-length", b"")
    # Thousands of digits would be an error of their own.
    return int(announced[:20]) if announced.isdigit() else 0


async def send_error(send: Send, error: ApiError, path: str, request_id: str) -> None:
    """Answer with an error."""
    body = json.dumps(error_body(error, path, request_id)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in error.headers.items()),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": with_headers(headers, request_id)})
    await send({"type": "http.response.body", "body": body})


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
