"""Read one input from object storage: the first attempt in the thread that wants it, others with the client's retries.

What cannot be had is the row of its input, until so much fails in a row that it must be the storage's.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING

import imgcls_ray.storage.object_stores as object_stores
from imgcls_ray.errors import ImageError, ImageErrorCode, InputError
from imgcls_ray.storage.files import opaque_etag
from imgcls_ray.storage.object_client import client_of
from imgcls_ray.storage.object_failures import Failure, ObjectError, explain
from imgcls_ray.storage.object_wire import is_odd
from imgcls_ray.storage.schemes import split_uri

if TYPE_CHECKING:
    from imgcls_ray.storage.object_client import ObjectClient
    from imgcls_ray.storage.object_stores import Bucket
    from imgcls_ray.storage.object_wire import Span
    from imgcls_ray.storage.options import StorageOptions

# One object that cannot be had is its row's business. So many in a row, with not one success between, are the
# storage's: going on would label nothing, a deadline at a time.
_MAX_FAILURES_IN_A_ROW = 64
_CODES = {
    Failure.MISSING: ImageErrorCode.NOT_FOUND,
    Failure.DENIED: ImageErrorCode.ACCESS_DENIED,
    Failure.ARCHIVED: ImageErrorCode.ARCHIVED,
    Failure.CONFLICT: ImageErrorCode.CHANGED,
}


def fetch_object(
    uri: str, options: StorageOptions, *, etag: str | None, max_bytes: int, timeout_s: float, span: Span = None
) -> bytes:
    """Read one input whole, or a range of it (shorter where it ends before), if it is the version that was planned.

    Raises:
        ImageError: not_found, access_denied, archived, changed, too_many_bytes or fetch_failed.
        StorageError: no object can be read.
    """
    reader = _reader(client_of(uri, options))
    return reader.fetch(uri, etag=etag, max_bytes=max_bytes, timeout_s=timeout_s, span=span)


@functools.lru_cache(maxsize=8)
def _reader(client: ObjectClient) -> ObjectReader:
    return ObjectReader(client)


class ObjectReader:
    """Reads inputs with one client, for any number of threads."""

    def __init__(self, client: ObjectClient) -> None:
        self._client = client
        self._failures_in_a_row = 0

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int, timeout_s: float, span: Span = None) -> bytes:
        """As ``fetch_object``."""
        client = self._client
        try:
            bucket, key = split_uri(uri)
        except InputError as error:  # one row of a list
            raise ImageError(ImageErrorCode.NOT_FOUND, str(error)) from error
        if client.s3 is None and is_odd(key):
            why = f"{client.kind}:// with empty parts, dots or control characters between slashes"
            raise ImageError(ImageErrorCode.UNSUPPORTED_STORAGE, why)
        try:
            version = opaque_etag(etag) if etag else None
            data = self._read(bucket, key, etag=version, max_bytes=max_bytes, timeout_s=timeout_s, span=span)
        except ObjectError as error:
            if span is not None and error.failure is Failure.EMPTY_RANGE:
                return b""  # the object ends before
            if error.failure in _CODES:
                self._failures_in_a_row = 0
                raise ImageError(_CODES[error.failure], str(error)) from error
            self._failures_in_a_row += 1
            # A list may name a bucket that is not there among others that are.
            of_the_object = error.failure in (
                Failure.PASSING,
                Failure.NO_BUCKET,
                Failure.EMPTY_RANGE,
                Failure.NO_LENGTH,
            )
            if of_the_object and self._failures_in_a_row < _MAX_FAILURES_IN_A_ROW:
                raise ImageError(ImageErrorCode.FETCH_FAILED, str(error)) from error
            raise client.storage_error(f"{uri}: cannot be read", error) from error
        self._failures_in_a_row = 0
        return data

    def _read(self, bucket: str, key: str, *, etag: str | None, max_bytes: int, timeout_s: float, span: Span) -> bytes:
        """Read an object in this thread; if that gives no certain answer, with retries."""
        deadline = time.monotonic() + timeout_s
        if span is None and (data := self._read_now(bucket, key, etag, max_bytes, timeout_s)) is not None:
            return data
        left = deadline - time.monotonic()
        limit = max_bytes if span is None else None
        return self._client.get(bucket, key, deadline_s=left, max_bytes=limit, etag=etag, span=span).data

    def _read_now(self, bucket: str, key: str, etag: str | None, max_bytes: int, timeout_s: float) -> bytes | None:
        """The first attempt, without the event loop; ``None`` if it gives no certain answer.

        Raises:
            ImageError: too_many_bytes.
            ObjectError: the object cannot be read.
        """
        client, deadline = self._client, time.monotonic() + timeout_s
        if client.hub is not None or is_odd(key) or timeout_s < 2 * object_stores.QUICK_TIMEOUT_S:
            return None
        if_match = not client.has_weak_etags
        try:
            opened = client.wire.known(bucket) or self._opened(bucket, timeout_s / 2)
            return client.wire.get_now(opened, key, etag=etag, if_match=if_match, max_bytes=max_bytes)
        except ImageError:
            raise
        except Exception as error:
            failure, reason = explain(error)
            if failure not in _CODES:
                return None
            left = deadline - time.monotonic()
            if failure is Failure.CONFLICT and if_match and client.is_weak(bucket, key, etag, left):
                return None
            raise ObjectError(failure, reason) from None

    def _opened(self, bucket: str, timeout_s: float) -> Bucket:
        client = self._client
        # Not with retries, which would take it for an answer of the server.
        return asyncio.run_coroutine_threadsafe(client.wire.bucket(bucket), client.loop).result(timeout_s)
