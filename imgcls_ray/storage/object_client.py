"""Requests to object storage of any kind: one client per process, deadlines, retries, classified failures.

Requests go through obstore; odd keys of S3 go through ``s3``. Their own retries are off: here one place decides what is
tried again (busy servers, broken connections, time-outs: with growing random pauses) and what is not (refusals, missing
objects, wrong credentials). Credentials stay inside the clients.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import random
import threading
import time
import uuid
from typing import TYPE_CHECKING, TypeVar

from imgcls_ray.errors import StorageError
from imgcls_ray.storage.files import opaque_etag
from imgcls_ray.storage.hub import HubRequests
from imgcls_ray.storage.object_failures import Failure, ObjectError, explain
from imgcls_ray.storage.object_wire import ObstoreWire, is_odd
from imgcls_ray.storage.s3 import CREDENTIALS_DEADLINE_S, S3Requests
from imgcls_ray.storage.schemes import bucket_name, kind_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgcls_ray.storage.object_wire import Answer, Head, Span
    from imgcls_ray.storage.options import StorageOptions

T = TypeVar("T")
_is_forked = False

# A page of 1,000 keys, a part file, a plan: what the label store asks for.
STORE_DEADLINE_S = 120.0
_MAX_ATTEMPTS = 16
# Of a server that has never answered: more likely a wrong address than a short failure.
_MAX_ATTEMPTS_AT_FIRST = 8
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0
_SLOWEST_UPLOAD_BYTES_PER_S = 2**20

_NAMES = {"s3": "S3", "gs": "Google Cloud Storage", "az": "Azure", "hf": "Hugging Face Hub"}
_CREDENTIALS = {
    "s3": "credentials (environment, ~/.aws, role), region and endpoint",
    "gs": "credentials (GOOGLE_APPLICATION_CREDENTIALS, gcloud's default login, service account) and endpoint",
    "az": "AZURE_STORAGE_ACCOUNT_NAME, credentials (AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, identity) "
    "and endpoint",
    "hf": "the token (HF_TOKEN, or that of `hf auth login`) and HF_ENDPOINT",
}


class ObjectClient:
    """Requests with retries, for any number of threads. A bucket is given with its scheme, ``s3://photos``."""

    def __init__(self, kind: str, options: StorageOptions) -> None:
        self.kind, self._options = kind, options
        self.loop = _event_loop()
        self.s3 = S3Requests(options, self.loop) if kind == "s3" else None
        """Lists, where obstore does not."""
        self.hub = HubRequests(options) if kind == "hf" else None
        """Makes every request to the Hugging Face Hub, which obstore does not know."""
        self.wire = ObstoreWire(kind, options, self.s3)
        self._has_answered = False
        self.has_weak_etags = False
        """Whether conditions on versions are not sent, because the server's ETags never fulfil them."""

    @property
    def place(self) -> str:
        """Name of the server for messages."""
        return (self._options.endpoint_url if self.hub is None else None) or _NAMES[self.kind]

    def head(self, bucket: str, key: str, *, deadline_s: float = STORE_DEADLINE_S) -> Head:
        """What is told of an object.

        Raises:
            ObjectError: it failed for good.
        """
        wire = self._wire(key)
        return self.retried(lambda _: wire.head(bucket, key), deadline_s)

    def get(
        self,
        bucket: str,
        key: str,
        *,
        deadline_s: float = STORE_DEADLINE_S,
        max_bytes: int | None = None,
        etag: str | None = None,
        span: Span = None,
    ) -> Answer:
        """Read an object, or a range of it.

        Args:
            bucket: where it is.
            key: its name.
            deadline_s: for all attempts together.
            max_bytes: the limit on its size.
            etag: the version that it must be, as ``opaque_etag`` gives it.
            span: the range.

        Raises:
            ObjectError: it failed for good, or is another version.
            ImageError: too_many_bytes.
        """
        deadline = time.monotonic() + deadline_s
        wire, if_match = self._wire(key), not self.has_weak_etags

        def attempt(_number: int) -> Awaitable[Answer]:
            return wire.get(bucket, key, etag=etag, if_match=if_match, span=span, max_bytes=max_bytes)

        try:
            return self.retried(attempt, deadline_s)
        except ObjectError as error:
            left = deadline - time.monotonic()
            is_certain = not (etag and if_match) or error.failure is not Failure.CONFLICT
            if is_certain or not self.is_weak(bucket, key, etag, left):
                raise
        left = deadline - time.monotonic()
        return self.get(bucket, key, deadline_s=left, max_bytes=max_bytes, etag=etag, span=span)

    def is_weak(self, bucket: str, key: str, etag: str | None, deadline_s: float) -> bool:
        """Whether an existing version was refused because a weak ETag never matches ``If-Match`` (RFC 9110, 13.1.1)."""
        try:
            came = self.head(bucket, key, deadline_s=deadline_s).etag
        except ObjectError:
            return False
        is_weak = came.startswith("W/") and opaque_etag(came) == etag
        # What gives one weak ETag gives others.
        self.has_weak_etags |= is_weak
        return is_weak

    def create(self, bucket: str, key: str, data: bytes) -> bool:
        """Write a new object in one conditional request. ``False``: the name exists, and its content is unchanged.

        Raises:
            ObjectError: it failed for good.
        """
        wire, writer = self._wire(key), uuid.uuid4().hex
        is_in_the_way = False

        async def attempt(_number: int) -> bool:
            nonlocal is_in_the_way
            try:
                if not is_in_the_way:
                    await wire.put(bucket, key, data, writer=writer)
                    return True
            except Exception as error:
                if explain(error)[0] is not Failure.CONFLICT:
                    raise
                is_in_the_way = True
            # An earlier attempt may have got through with its answer lost. Then the object carries our mark.
            return await _writer_of(wire, bucket, key) == writer

        return self.retried(attempt, STORE_DEADLINE_S)

    def replace(self, bucket: str, key: str, data: bytes) -> None:
        """Write an object, over an older one if there is one.

        Raises:
            ObjectError: it failed for good.
        """
        wire = self._wire(key)
        self.retried(lambda _: wire.put(bucket, key, data, writer=None), STORE_DEADLINE_S)

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object; nothing happens if it is gone already.

        Raises:
            ObjectError: it failed for good.
        """
        wire = self._wire(key)
        try:
            self.retried(lambda _: wire.delete(bucket, key), STORE_DEADLINE_S)
        except ObjectError as error:
            if error.failure is not Failure.MISSING:
                raise

    def upload(self, path: str, bucket: str, key: str) -> None:
        """Upload a local file of any size, a large one in parts; the object appears complete.

        Raises:
            ObjectError: it failed for good.
        """
        wire = self._wire(key)
        deadline_s = max(STORE_DEADLINE_S, os.path.getsize(path) / _SLOWEST_UPLOAD_BYTES_PER_S)
        self.retried(lambda _: wire.upload(path, bucket, key), deadline_s)

    def _wire(self, key: str) -> ObstoreWire | S3Requests | HubRequests:
        if self.hub is not None:
            return self.hub
        return self.s3 if self.s3 is not None and is_odd(key) else self.wire

    def retried(self, attempt: Callable[[int], Awaitable[T]], deadline_s: float) -> T:
        """Make a request until it succeeds, fails for good, or its time is over.

        Args:
            attempt: given the number of the attempt, from 1; runs in the client's event loop.
            deadline_s: for all attempts and pauses together.

        Raises:
            ObjectError: the last reason.
            StorageError: as ``client_of``.
        """
        _refuse_in_fork(self.place)
        return asyncio.run_coroutine_threadsafe(self._retried(attempt, deadline_s), self.loop).result()

    async def _retried(self, attempt: Callable[[int], Awaitable[T]], deadline_s: float) -> T:
        await self._set_up()
        clock = self.loop.time
        deadline = clock() + deadline_s
        known: tuple[Failure, str] | None = None
        for number in itertools.count(1):
            try:
                async with asyncio.timeout_at(deadline):
                    result = await attempt(number)
                self._has_answered = True
                return result
            # The clients' libraries raise kinds of their own; those that are not theirs are handed on.
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
                    # Not from the client's error, whose text may hold the request.
                    raise ObjectError(failure, reason) from None
                self._has_answered |= failure is not Failure.UNREACHABLE
                most = _MAX_ATTEMPTS if self._has_answered else _MAX_ATTEMPTS_AT_FIRST
                if number >= most or clock() + pause >= deadline:
                    raise ObjectError(failure, f"{reason}; tried {number} times") from None
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _set_up(self) -> None:
        """Load what the client of S3 needs, once: a second of a busy machine's time, and not the server's."""
        if self.s3 is None:
            return
        try:
            async with asyncio.timeout(CREDENTIALS_DEADLINE_S):
                await self.s3.client()
        except TimeoutError:
            why = f"no credentials came within {CREDENTIALS_DEADLINE_S:.0f} s"
            raise ObjectError(Failure.STORAGE, why) from None
        except Exception as error:
            failure, reason = explain(error)
            if failure is None:
                raise
            raise ObjectError(failure, reason) from None

    def why_no_bucket(self, bucket: str, error: ObjectError, *, may_be_made: bool = False) -> str:
        """What is said of a bucket that is not there, with the way out."""
        if self.hub is not None:
            what, advice = "repository", "check its name, and HF_TOKEN if it is private"
        else:
            what, advice = "bucket", "make it, or check its name" if may_be_made else "check its name, and the endpoint"
        return f"there is no {what} {bucket_name(bucket)!r} ({error}); {advice}"

    def storage_error(self, what: str, error: ObjectError) -> StorageError:
        """The error that ends a command, with place, reason and remedy."""
        advice = {
            Failure.MISSING: "",
            Failure.DENIED: "; check the rights of your credentials on it",
            Failure.ARCHIVED: "; restore it first",
            Failure.NO_LENGTH: "; upload it without Content-Encoding, or check the proxy",
            Failure.NO_BUCKET: "; check the bucket's name, and the endpoint",
            Failure.UNREACHABLE: "; check the endpoint and the network",
            Failure.STORAGE: f"; check {_CREDENTIALS[self.kind]}",
        }.get(error.failure, "; the storage is not well, run the command again later")
        return StorageError(f"{what}: {self.place}: {error}{advice}")


def client_of(uri: str, options: StorageOptions) -> ObjectClient:
    """This process's client for the storage of an address.

    Raises:
        StorageError: this process is a fork of one that had a client.
    """
    _refuse_in_fork(uri)
    return _client(kind_of(uri), options)


def _refuse_in_fork(what: str) -> None:
    if _is_forked:
        raise StorageError(f"{what}: cannot be read by a process that is a fork of one that used object storage")


def forget_clients() -> None:
    """Make new clients from now on: the environment is another."""
    _client.cache_clear()


@functools.lru_cache(maxsize=8)
def _client(kind: str, options: StorageOptions) -> ObjectClient:
    return ObjectClient(kind, options)


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="storage", daemon=True).start()
    os.register_at_fork(after_in_child=_refuse_from_now_on)
    return loop


def _refuse_from_now_on() -> None:
    # The threads of the clients are not in a forked process, which would wait for them for ever.
    global _is_forked
    _is_forked = True


async def _writer_of(wire: ObstoreWire | S3Requests | HubRequests, bucket: str, key: str) -> str | None:
    try:
        return (await wire.head(bucket, key)).writer
    except Exception as error:
        if explain(error)[0] is not Failure.MISSING:
            raise
        # Removed since: it was there when it was in the way.
        return None
