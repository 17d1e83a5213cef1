"""What a request can be refused with: one machine code and one HTTP status for each reason."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageErrorCode

if TYPE_CHECKING:
    from imgcls_ray.errors import ImageError


class ErrorCode(StrEnum):
    """Why a whole request has no answer. A closed set; an image's own codes are ``ImageErrorCode``."""

    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    INVALID = "invalid"
    TOO_MANY_IMAGES = "too_many_images"
    URLS_NOT_ALLOWED = "urls_not_allowed"
    OVERLOADED = "overloaded"
    NOT_READY = "not_ready"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL = "internal"

    @property
    def status(self) -> int:
        """Of the HTTP response."""
        return _STATUS[self]


_STATUS = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.PAYLOAD_TOO_LARGE: 413,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.RANGE_NOT_SATISFIABLE: 416,
    ErrorCode.INVALID: 422,
    ErrorCode.TOO_MANY_IMAGES: 422,
    ErrorCode.URLS_NOT_ALLOWED: 422,
    ErrorCode.OVERLOADED: 503,
    ErrorCode.NOT_READY: 503,
    ErrorCode.DEADLINE_EXCEEDED: 504,
    ErrorCode.INTERNAL: 500,
}
RETRY_AFTER_S = 1
# Paths of protocols that have another form of errors.
PADDLEX_PATHS = ("/image-classification", "/health")
KSERVE_PATH = "/v2"


class ApiError(Exception):
    """Ends a request with one status, one machine code and one sentence for people."""

    def __init__(self, code: str, message: str, *, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status
        self.headers = headers or {}


def refuse(code: ErrorCode, message: str) -> ApiError:
    """The error of a request, with the headers that belong to it."""
    headers = {}
    if code.status == 503:
        headers["retry-after"] = str(RETRY_AFTER_S)
    elif code is ErrorCode.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    elif code in (ErrorCode.PAYLOAD_TOO_LARGE, ErrorCode.DEADLINE_EXCEEDED):
        # What the client still sends is not read: the connection cannot be used again, and is not held open by it.
        headers["connection"] = "close"
    return ApiError(code.value, message, status=code.status, headers=headers)


def failed() -> ApiError:
    """The service's own fault, of which callers learn nothing."""
    return refuse(ErrorCode.INTERNAL, "the service failed; its log has the reason")


def no_room(what: str = "images") -> ApiError:
    """There is more in the replica than it takes in."""
    return refuse(ErrorCode.OVERLOADED, f"too many {what} wait already; try again later")


def not_found() -> ApiError:
    """Nothing is there."""
    return refuse(ErrorCode.NOT_FOUND, "there is no such page")


def too_large(max_bytes: int) -> ApiError:
    """The request is beyond its limit."""
    return refuse(ErrorCode.PAYLOAD_TOO_LARGE, f"the request is larger than the limit of {max_bytes:,} bytes")


_STATUS_OF_IMAGE = {
    ImageErrorCode.UNSUPPORTED_FORMAT: 415,
    ImageErrorCode.TOO_MANY_BYTES: 413,
}


def refuse_image(error: ImageError) -> ApiError:
    """The error of a request whose only image has no label."""
    return ApiError(error.code.value, str(error), status=_STATUS_OF_IMAGE.get(error.code, 422))


def error_body(error: ApiError, path: str, request_id: str) -> dict[str, object]:
    """What an error looks like, in the protocol that the path belongs to."""
    if path in PADDLEX_PATHS:
        return {"logId": request_id, "errorCode": error.status, "errorMsg": f"{error.code}: {error.message}"}
    if path == KSERVE_PATH or path.startswith(f"{KSERVE_PATH}/"):
        return {"error": error.message, "code": error.code, "request_id": request_id}
    return {"error": {"code": error.code, "message": error.message, "request_id": request_id}}
