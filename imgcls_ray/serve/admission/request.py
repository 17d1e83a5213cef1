"""One request as proxy, replica and routes see it: its context, its head, and the answer if it is an error."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imgcls_ray.serve.errors import ApiError, ErrorCode, error_body, not_found, refuse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.types import Scope, Send

    from imgcls_ray.serve.admission.room import Reservation

CONTEXT_KEY = "imgcls_request"
"""Where a request's context is in its ASGI scope."""

PAUSE_HEADER = b"x-imgcls-pause-ms"
"""Of a refusal: for how long HAProxy refuses in the replica's place. No caller sees it."""
REFUSED_HEADER = b"x-imgcls-refused"
"""Of a request: how many HAProxy has refused since it last let one through."""
REQUEST_ID_PATTERN = "[A-Za-z0-9._:-]{1,128}"
"""Of a caller's id that may stand in a log and a header."""

_REQUEST_ID = re.compile(REQUEST_ID_PATTERN.encode())
# Of the head of a request. Those of browsers and clients are a tenth of it.
_MAX_PATH_CHARS = 4096
_MAX_QUERY_BYTES = 4096
_MAX_HEADERS = 200
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


@dataclass(slots=True)
class RequestContext:
    """What is known of one request beside what ASGI says of it."""

    request_id: str
    path: str
    """Without the prefix that the application is mounted at."""
    reservation: Reservation
    error_code: str = ""
    """Of the answer, if it is an error."""
    log_fields: dict[str, object] = field(default_factory=dict)
    """For the line in the access log: what became of its images."""


def context_of(scope: Scope) -> RequestContext:
    """The context of a request that the replica has admitted."""
    context: RequestContext = scope[CONTEXT_KEY]
    return context


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers of a request; of several with one name the first counts."""
    return dict(reversed(scope["headers"]))


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """The caller's, if it may stand in a log and a header; otherwise a new one."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


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


def with_headers(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with those that every answer has."""
    found = list(headers)
    names = {name.lower() for name, _ in found}
    found += [header for header in _ALWAYS if header[0] not in names]
    if b"x-request-id" not in names:
        found.append((b"x-request-id", request_id.encode()))
    return found


async def send_error(send: Send, error: ApiError, path: str, request_id: str) -> None:
    """Answer with an error."""
    headers, body = error_answer(error, path, request_id)
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_answer(error: ApiError, path: str, request_id: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of the answer to a request that ends with an error."""
    body = json.dumps(error_body(error, path, request_id)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in error.headers.items()),
    ]
    return with_headers(headers, request_id), body
