"""Requests to S3 and compatible servers: one client per process, deadlines, retries, classified failures.

Everything goes through s3fs's client, whose own retries are off: here one place decides what is tried again (busy
servers, broken connections, time-outs: with growing random pauses) and what is not (refusals, missing objects, wrong
credentials). Credentials come from the usual chain of AWS tools and stay inside the client.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import urlsplit

from imgcls_ray.errors import ImageError, ImageErrorCode, StorageError
from imgcls_ray.storage.files import opaque_etag
from imgcls_ray.storage.s3 import split_uri
from imgcls_ray.storage.s3_failures import BY_CODE, AskAgainError, Failure, S3Error, check_version, explain
from imgcls_ray.storage.s3_fast import Credentials, Endpoint, FastReader, Refusal
from imgcls_ray.storage.s3_session import open_filesystem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from imgcls_ray.storage.options import StorageOptions
    from imgcls_ray.storage.s3_answers import AsyncClient, Head, ObjectAnswer, ObjectBody, Parameter

T = TypeVar("T")

# A page of 1,000 keys, a part file, a plan: what the label store asks for.
STORE_DEADLINE_S = 120.0
_MAX_ATTEMPTS = 16
# Of a server that has never answered: more likely a wrong address than a short failure.
_MAX_ATTEMPTS_AT_FIRST = 8
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0
# One object that cannot be had is its row's business. So many in a row, with not one success between, are the
# storage's: going on would label nothing, a deadline at a time.
_MAX_FAILURES_IN_A_ROW = 64
_CHUNK_BYTES = 2**20
_UPLOAD_PART_BYTES = 32 * 2**20
_SLOWEST_UPLOAD_BYTES_PER_S = 2**20


class S3Client:
    """Requests with retries, for any number of threads."""

    def __init__(self, options: StorageOptions) -> None:
        self._options = options
        self._filesystem = open_filesystem(options)
        self._fast = FastReader(self._locate, None if options.anonymous else self._credentials)
        self._failures_in_a_row = 0
        self._has_answered = False
        self._has_weak_etags = False

    @property
    def place(self) -> str:
        """Name of the server for messages."""
        return self._options.endpoint_url or "S3"

    def request(
        self,
        operation: Literal["head_object", "put_object", "delete_object"],
        *,
        deadline_s: float = STORE_DEADLINE_S,
        **parameters: Parameter,
    ) -> Head:
        """One request about an object whose answer has no body.

        Raises:
            S3Error: it failed for good.
        """

        async def attempt(client: AsyncClient, _number: int) -> Head:
            answer: Head = await getattr(client, operation)(**parameters)
            return answer

        return self.retried(attempt, deadline_s)

    def get(
        self,
        bucket: str,
        key: str,
        *,
        deadline_s: float,
        max_bytes: int | None = None,
        etag: str | None = None,
        byte_range: str | None = None,
    ) -> tuple[bytes, Head]:
        """Read an object, or a range of it, whole; returns its bytes and the answer's head.

        Args:
            bucket: where it is.
            key: its name.
            deadline_s: for all attempts together.
            max_bytes: the limit on its size.
            etag: the version that it must be, as ``opaque_etag`` gives it.
            byte_range: as HTTP writes it, e.g. ``bytes=0-99``.

        Raises:
            S3Error: it failed for good, or is another version.
            ImageError: too_many_bytes.
        """
        deadline = time.monotonic() + deadline_s
        condition = {"IfMatch": f'"{etag}"'} if etag and not self._has_weak_etags else {}
        part = {"Range": byte_range} if byte_range else {}

        async def attempt(client: AsyncClient, _number: int) -> tuple[bytes, Head]:
            answer = await client.get_object(Bucket=bucket, Key=key, **condition, **part)
            try:
                check_version(answer.get("ETag"), etag)
            except S3Error:
                answer["Body"].close()
                raise
            return await _read_body(answer, max_bytes), answer

        try:
            return self.retried(attempt, deadline_s)
        except S3Error as error:
            left = deadline - time.monotonic()
            if not condition or error.failure is not Failure.CONFLICT or not self._is_weak(bucket, key, etag, left):
                raise
        left = deadline - time.monotonic()
        return self.get(bucket, key, deadline_s=left, max_bytes=max_bytes, etag=etag, byte_range=byte_range)

    def _is_weak(self, bucket: str, key: str, etag: str | None, deadline_s: float) -> bool:
        """Whether an existing version was refused because a weak ETag never matches ``If-Match`` (RFC 9110, 13.1.1)."""
        try:
            came = self.request("head_object", deadline_s=deadline_s, Bucket=bucket, Key=key).get("ETag", "")
        except S3Error:
            return False
        is_weak = came.startswith("W/") and opaque_etag(came) == etag
        # What gives one weak ETag gives others.
        self._has_weak_etags |= is_weak
        return is_weak

    def upload(self, path: str, bucket: str, key: str) -> None:
        """Upload a local file of any size, a large one in parts; the object appears complete.

        Raises:
            S3Error: it failed for good.
        """

        async def attempt(_client: AsyncClient, _number: int) -> None:
            # The name goes through s3fs's own idea of paths, which keeps what a label store's names are made of.
            await self._filesystem._put_file(path, f"{bucket}/{key}", chunksize=_UPLOAD_PART_BYTES)

        self.retried(attempt, max(STORE_DEADLINE_S, os.path.getsize(path) / _SLOWEST_UPLOAD_BYTES_PER_S))

    def retried(self, attempt: Callable[[AsyncClient, int], Awaitable[T]], deadline_s: float) -> T:
        """Make a request until it succeeds, fails for good, or its time is over.

        Args:
            attempt: given s3fs's client and the number of the attempt, from 1; runs in s3fs's event loop.
            deadline_s: for all attempts and pauses together.

        Raises:
            S3Error: the last reason.
        """
        from fsspec.asyn import sync

        result: T = sync(self._filesystem.loop, self._retried, attempt, deadline_s)
        return result

    async def _retried(self, attempt: Callable[[AsyncClient, int], Awaitable[T]], deadline_s: float) -> T:
        clock = asyncio.get_running_loop().time
        deadline = clock() + deadline_s
        known: tuple[Failure, str] | None = None
        for number in itertools.count(1):
            try:
                async with asyncio.timeout_at(deadline):
                    client = await self._filesystem.set_session()
                    result = await attempt(client, number)
                self._has_answered = True
                return result
            # The client's libraries raise kinds of their own; those that are not theirs are handed on.
            except Exception as error:
                failure, reason = explain(error)
                if failure is None:
                    raise
                if known and isinstance(error, TimeoutError) and clock() >= deadline:
                    # The attempt was cut short: what came of the one before says more, and whose fault it is.
                    failure, reason = known
                known = failure, reason
                # Full jitter: many workers that were turned away together do not come back together (Brooker,
                # "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
                pause = random.uniform(0, min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2 ** (number - 1)))
                if failure not in (Failure.PASSING, Failure.UNREACHABLE):
                    raise S3Error(failure, reason) from error
                self._has_answered |= failure is not Failure.UNREACHABLE
                most = _MAX_ATTEMPTS if self._has_answered else _MAX_ATTEMPTS_AT_FIRST
                if number >= most or clock() + pause >= deadline:
                    raise S3Error(failure, f"{reason}; tried {number} times") from error
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def fetch(self, uri: str, *, etag: str | None, max_bytes: int, timeout_s: float) -> bytes:
        """Read one input whole, if it is still the version that was planned.

        Raises:
            ImageError: not_found, access_denied, archived, changed, too_many_bytes or fetch_failed.
            StorageError: no object can be read.
        """
        bucket, key = split_uri(uri)
        version = opaque_etag(etag) if etag else None
        with self._failures_of(uri):
            return self._read(bucket, key, etag=version, max_bytes=max_bytes, timeout_s=timeout_s)

    def fetch_range(self, uri: str, offset: int, length: int, *, etag: str | None, timeout_s: float) -> bytes:
        """Read a part of an object, if it is still the version that was planned; fewer bytes where it ends before.

        Raises:
            ImageError, StorageError: as ``fetch``.
        """
        bucket, key = split_uri(uri)
        version = opaque_etag(etag) if etag else None
        part = f"bytes={offset}-{offset + length - 1}"
        with self._failures_of(uri):
            try:
                return self.get(bucket, key, deadline_s=timeout_s, etag=version, byte_range=part)[0]
            except S3Error as error:
                if error.failure is not Failure.EMPTY_RANGE:
                    raise
                return b""

    @contextmanager
    def _failures_of(self, uri: str) -> Iterator[None]:
        """The block reads an input; what it raises is that input's error, or the storage's."""
        try:
            yield
        except S3Error as error:
            if error.failure in _CODES:
                self._failures_in_a_row = 0
                raise ImageError(_CODES[error.failure], str(error)) from error
            self._failures_in_a_row += 1
            # A list may name a bucket that is not there among others that are.
            of_the_object = error.failure in (Failure.PASSING, Failure.NO_BUCKET)
            if of_the_object and self._failures_in_a_row < _MAX_FAILURES_IN_A_ROW:
                raise ImageError(ImageErrorCode.FETCH_FAILED, str(error)) from error
            raise self.storage_error(f"{uri}: cannot be read", error) from error
        self._failures_in_a_row = 0

    def _read(self, bucket: str, key: str, *, etag: str | None, max_bytes: int, timeout_s: float) -> bytes:
        """Read an object with the fast client; if it gives no certain answer, with the careful one."""
        deadline = time.monotonic() + timeout_s
        answer = self._fast.read(
            bucket, key, etag=etag, if_match=not self._has_weak_etags, max_bytes=max_bytes, timeout_s=timeout_s
        )
        if isinstance(answer, bytes):
            return answer
        if isinstance(answer, Refusal) and (failure := BY_CODE.get(answer.code)) in _CODES:
            is_certain = failure is not Failure.CONFLICT or self._has_weak_etags
            if is_certain or not self._is_weak(bucket, key, etag, deadline - time.monotonic()):
                raise S3Error(failure, f"{answer.status} {answer.code}")
        data, _ = self.get(bucket, key, deadline_s=deadline - time.monotonic(), max_bytes=max_bytes, etag=etag)
        return data

    def _locate(self, bucket: str) -> Endpoint | None:
        """Endpoint of the bucket; ``None`` if it cannot be found (the careful client will report the reason)."""

        async def attempt(client: AsyncClient, _number: int) -> Endpoint:
            url, region = str(client.meta.endpoint_url), client.meta.region_name or "us-east-1"
            if not (urlsplit(url).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")):
                return Endpoint(url, region)
            head = await client.head_bucket(Bucket=bucket)
            return Endpoint(None, head["BucketRegion"])

        try:
            return self.retried(attempt, STORE_DEADLINE_S)
        except (S3Error, KeyError):
            return None

    def _credentials(self) -> Credentials | None:
        """Current credentials of the usual chain, which renews expired ones."""
        from fsspec.asyn import sync

        async def ask() -> Credentials | None:
            await self._filesystem.set_session()
            found = await self._filesystem.session.get_credentials()
            if found is None:
                return None
            keys = await found.get_frozen_credentials()
            return Credentials(keys.access_key, keys.secret_key, keys.token)

        keys: Credentials | None = sync(self._filesystem.loop, ask)
        return keys

    def storage_error(self, what: str, error: S3Error) -> StorageError:
        """The error that ends a command, with place, reason and remedy."""
        advice = {
            Failure.MISSING: "",
            Failure.DENIED: "; check the rights of your credentials on it",
            Failure.ARCHIVED: "; restore it first",
            Failure.NO_BUCKET: "; check the bucket's name, and the endpoint",
            Failure.UNREACHABLE: "; check the endpoint and the network",
            Failure.STORAGE: "; check credentials (environment, ~/.aws, role), region and endpoint",
        }.get(error.failure, "; the storage is not well, run the command again later")
        return StorageError(f"{what}: {self.place}: {error}{advice}")


_CODES = {
    Failure.MISSING: ImageErrorCode.NOT_FOUND,
    Failure.DENIED: ImageErrorCode.ACCESS_DENIED,
    Failure.ARCHIVED: ImageErrorCode.ARCHIVED,
    Failure.CONFLICT: ImageErrorCode.CHANGED,
}


@functools.lru_cache(maxsize=4)
def s3_client(options: StorageOptions) -> S3Client:
    """This process's client for a server."""
    return S3Client(options)


async def _read_body(answer: ObjectAnswer, max_bytes: int | None) -> bytes:
    body, length = answer["Body"], answer.get("ContentLength")
    try:
        if max_bytes is not None and length is not None and length > max_bytes:
            raise ImageError(ImageErrorCode.TOO_MANY_BYTES, f"{length:,} bytes, the limit is {max_bytes:,}")
        if length is not None:
            data = await body.read()
        else:
            data = await _read_bounded(body, max_bytes)
    finally:
        body.close()
    if length is not None and len(data) != length:
        raise AskAgainError(f"the answer ended after {len(data):,} of {length:,} bytes")
    return data


async def _read_bounded(body: ObjectBody, max_bytes: int | None) -> bytes:
    chunks, size = [], 0
    while chunk := await body.read(_CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if max_bytes is not None and size > max_bytes:
            raise ImageError(ImageErrorCode.TOO_MANY_BYTES, f"the limit is {max_bytes:,} bytes")
    return b"".join(chunks)
