"""Classify failed requests to object storage, for the caller and for retries.

One table of error codes for S3, Google Cloud Storage and Azure: their codes are names in one form of XML.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING

from imgcls_ray.storage.files import opaque_etag

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_ETAG_CHARS = 80


class Failure(Enum):
    """Kind of a failed request."""

    MISSING = auto()
    DENIED = auto()
    ARCHIVED = auto()
    """The object is in an archive storage class and was not restored."""
    CONFLICT = auto()
    """A condition on the object's version does not hold."""
    EMPTY_RANGE = auto()
    """The object has none of the bytes that were asked for."""
    PASSING = auto()
    """The failure is temporary; the request is retried."""
    UNREACHABLE = auto()
    """No connection to the server: also tried again, and if that does not help, no other object will do better."""
    NO_BUCKET = auto()
    NO_LENGTH = auto()
    """An answer does not say how many bytes it has; obstore needs that."""
    STORAGE = auto()
    """No request can succeed: wrong credentials, wrong clock, unsupported requests."""


class ObjectError(Exception):
    """A request that failed for good, with its last reason."""

    def __init__(self, failure: Failure, reason: str) -> None:
        super().__init__(reason)
        self.failure = failure


def check_version(came: str | None, planned: str | None) -> None:
    """Compare an answer's ETag with the requested one, because some servers ignore ``If-Match``.

    Raises:
        ObjectError: it is another version. An answer without an ETag is taken.
    """
    if came and planned and opaque_etag(came) != planned:
        raise ObjectError(Failure.CONFLICT, f"its ETag is {came[:_ETAG_CHARS]}")


class AskAgainError(Exception):
    """An answer that cannot be right; the request is retried."""


_BY_CODE = {
    "NoSuchKey": Failure.MISSING,
    "KeyTooLongError": Failure.MISSING,
    "KeyTooLong": Failure.MISSING,
    "InvalidObjectName": Failure.MISSING,
    "NoSuchBucket": Failure.NO_BUCKET,
    "InvalidBucketName": Failure.NO_BUCKET,
    "AccessDenied": Failure.DENIED,
    "InvalidObjectState": Failure.ARCHIVED,
    "PreconditionFailed": Failure.CONFLICT,
    "InvalidRange": Failure.EMPTY_RANGE,
    "ConditionalRequestConflict": Failure.PASSING,
    "OperationAborted": Failure.PASSING,
    "RequestTimeout": Failure.PASSING,
    "SlowDown": Failure.PASSING,
    "InvalidAccessKeyId": Failure.STORAGE,
    "SignatureDoesNotMatch": Failure.STORAGE,
    "ExpiredToken": Failure.STORAGE,
    "ExpiredTokenException": Failure.STORAGE,
    "TokenRefreshRequired": Failure.STORAGE,
    "InvalidToken": Failure.STORAGE,
    "InvalidSecurity": Failure.STORAGE,
    "RequestTimeTooSkewed": Failure.STORAGE,
    "AccountProblem": Failure.STORAGE,
    "AuthorizationHeaderMalformed": Failure.STORAGE,
    # Azure's own
    "BlobNotFound": Failure.MISSING,
    "ResourceNotFound": Failure.MISSING,
    "ContainerNotFound": Failure.NO_BUCKET,
    "ContainerBeingDeleted": Failure.NO_BUCKET,
    "InvalidResourceName": Failure.NO_BUCKET,
    "OutOfRangeInput": Failure.NO_BUCKET,
    "AuthorizationPermissionMismatch": Failure.DENIED,
    "PublicAccessNotPermitted": Failure.DENIED,
    "BlobArchived": Failure.ARCHIVED,
    "BlobBeingRehydrated": Failure.ARCHIVED,
    "BlobAlreadyExists": Failure.CONFLICT,
    "ConditionNotMet": Failure.CONFLICT,
    "AuthenticationFailed": Failure.STORAGE,
    "AuthorizationFailure": Failure.STORAGE,
    "AccountIsDisabled": Failure.STORAGE,
}
_BY_STATUS = {
    403: Failure.DENIED,
    404: Failure.MISSING,
    409: Failure.PASSING,
    412: Failure.CONFLICT,
    416: Failure.EMPTY_RANGE,
    429: Failure.PASSING,
}
# What obstore says, in words and in the words of its libraries in Rust; its classes tell less.
_STATUS = re.compile(r"non-2xx status code: (\d{3})[^:\n]*:?(.*?)(?:\n\nDebug source|\Z)", re.DOTALL)
_ELEMENT = re.compile(r"<(Code|Message)>([^<]*)</")
_SYSTEM_ERROR = re.compile(r'code: (\d+),\s+kind: \w+,\s+message: "([^"]*)"')
_OTHER_ERROR = re.compile(r'error: "([^"]*)"')
_HTTP_KIND = re.compile(r"HttpError \{\s+kind: (\w+)")
_QUERY = re.compile(r"\?\S+")
_PATH_WORDS = ("Could not parse path", "invalid path")


def explain(error: Exception) -> tuple[Failure | None, str]:
    """What an exception of a client means, and its reason in one line; ``None`` for an exception not its own."""
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ObjectError):
        return error.failure, words
    if isinstance(error, AskAgainError):
        return Failure.PASSING, words
    if isinstance(error, TimeoutError):
        return Failure.PASSING, "no answer within the time"
    if any(kind.__module__.startswith("obstore") for kind in type(error).__mro__) or "Debug source:" in words:
        return _explain_obstore(str(error))
    if isinstance(error, UnicodeEncodeError):
        return Failure.MISSING, "no object has a name that is not UTF-8"
    if isinstance(error, ValueError) and words.startswith(_PATH_WORDS):
        return Failure.STORAGE, words
    return _explain_botocore(error, words)


def _explain_obstore(text: str) -> tuple[Failure, str]:
    told, _, debug = text.partition("\n\nDebug source:")
    if match := _STATUS.search(text):
        elements = dict(_ELEMENT.findall(match[2]))
        return explain_answer(int(match[1]), elements.get("Code", ""), elements.get("Message", ""))
    # Of a failed bulk request, whose parts have a status each.
    if match := re.search(r"\(code: (\d{3})\)", told):
        return explain_answer(int(match[1]), "", "")
    kind = match[1] if (match := _HTTP_KIND.search(debug)) else ""
    if kind == "Timeout":
        return Failure.PASSING, "no answer within the time"
    if kind:
        system = _SYSTEM_ERROR.search(debug)
        other = _OTHER_ERROR.search(debug)
        why = f"[Errno {system[1]}] {system[2]}" if system else other[1] if other else ""
        if "certificate" in debug.lower():
            return Failure.STORAGE, f"its certificate is not trusted: {why or 'unknown'}"
        if kind == "Connect":
            return Failure.UNREACHABLE, f"no connection: {why or 'refused'}"
        return Failure.PASSING, f"the connection broke: {_QUERY.sub('?...', why) or 'before the end'}"
    if "Content-Length Header missing" in told:
        return Failure.NO_LENGTH, "the answer does not say how many bytes it has"
    # Queries of Azure's addresses may hold signatures.
    return Failure.STORAGE, _QUERY.sub("?...", " ".join(told.split()))[:300]


def _explain_botocore(error: Exception, words: str) -> tuple[Failure | None, str]:
    import aiohttp
    from botocore import exceptions as botocore

    if isinstance(error, botocore.ClientError):
        return _explain_client_error(error)
    if isinstance(error, botocore.SSLError):
        return Failure.STORAGE, words
    cause = error.kwargs.get("error") if isinstance(error, botocore.EndpointConnectionError) else None
    if isinstance(cause, aiohttp.ClientOSError) and not isinstance(cause, aiohttp.ClientConnectorError):
        # aiobotocore says of a connection that broke that it was never made; the next object may do better.
        return Failure.PASSING, f"the connection broke: {cause}"
    if isinstance(
        error, (botocore.EndpointConnectionError, botocore.ConnectTimeoutError, botocore.ProxyConnectionError)
    ):
        return Failure.UNREACHABLE, words
    passing = (
        botocore.HTTPClientError,
        botocore.IncompleteReadError,
        botocore.ResponseStreamingError,
        botocore.ConnectionError,
        aiohttp.ClientError,
        ConnectionError,
    )
    # A gateway that turns requests away may answer with something that is no XML.
    if isinstance(error, passing) or type(error).__name__ == "ResponseParserError":
        return Failure.PASSING, words
    if isinstance(error, botocore.ParamValidationError):
        return Failure.NO_BUCKET, words
    if isinstance(error, botocore.BotoCoreError) or type(error) in (ValueError, FileNotFoundError):
        return Failure.STORAGE, words
    return None, words


def _explain_client_error(error: ClientError) -> tuple[Failure, str]:
    code = str(error.response.get("Error", {}).get("Code", ""))
    message = str(error.response.get("Error", {}).get("Message") or "")
    return explain_answer(int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)), code, message)


def explain_answer(status: int, code: str, message: str) -> tuple[Failure, str]:
    """What an answer means by its status and, if it has one, its code; and its reason in one line."""
    # The first words suffice: some servers send the request back, and nothing of it belongs into a log.
    reason = " ".join(f"{status} {code} {message}".split())[:200]
    if code in _BY_CODE:
        return _BY_CODE[code], reason
    if status >= 500 and status != 501:
        return Failure.PASSING, reason
    return _BY_STATUS.get(status, Failure.STORAGE), reason
