"""Classify failed requests to S3, for the caller and for retries."""

from __future__ import annotations

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
    STORAGE = auto()
    """No request can succeed: wrong credentials, wrong clock, unsupported requests."""


class S3Error(Exception):
    """A request that failed for good, with its last reason."""

    def __init__(self, failure: Failure, reason: str) -> None:
        super().__init__(reason)
        self.failure = failure


def check_version(came: str | None, planned: str | None) -> None:
    """Compare an answer's ETag with the requested one, because some servers ignore ``If-Match``.

    Raises:
        S3Error: it is another version. An answer without an ETag is taken.
    """
    if came and planned and opaque_etag(came) != planned:
        raise S3Error(Failure.CONFLICT, f"its ETag is {came[:_ETAG_CHARS]}")


class AskAgainError(Exception):
    """An answer that cannot be right; the request is retried."""


BY_CODE = {
    "NoSuchKey": Failure.MISSING,
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
}
_BY_STATUS = {
    403: Failure.DENIED,
    404: Failure.MISSING,
    409: Failure.PASSING,
    412: Failure.CONFLICT,
    416: Failure.EMPTY_RANGE,
    429: Failure.PASSING,
}


def explain(error: Exception) -> tuple[Failure | None, str]:
    """What an exception of the client means, and its reason in one line; ``None`` for an exception not its own."""
    import aiohttp
    from botocore import exceptions as botocore

    words = " ".join(str(error).split()) or type(error).__name__
    # s3fs's own methods give the client's errors other names.
    if isinstance(error, OSError) and isinstance(error.__cause__, botocore.ClientError):
        error = error.__cause__
    if isinstance(error, botocore.ClientError):
        return _explain_answer(error)
    if isinstance(error, AskAgainError):
        return Failure.PASSING, words
    if isinstance(error, TimeoutError):
        return Failure.PASSING, "no answer within the time"
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


def _explain_answer(error: ClientError) -> tuple[Failure, str]:
    code = str(error.response.get("Error", {}).get("Code", ""))
    message = str(error.response.get("Error", {}).get("Message") or "")
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    # The first words suffice: some servers send the request back, and nothing of it belongs into a log.
    reason = " ".join(f"{status} {code} {message}".split())[:200]
    if code in BY_CODE:
        return BY_CODE[code], reason
    if status >= 500 and status != 501:
        return Failure.PASSING, reason
    return _BY_STATUS.get(status, Failure.STORAGE), reason
