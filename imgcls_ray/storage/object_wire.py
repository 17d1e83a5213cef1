"""Single requests to a bucket of any kind through obstore: no retries, errors as obstore raises them.

A request in the event loop costs twice the processor time of one without, so the first attempt to read an input
(``get_now``) is made without.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.storage.files import opaque_etag
from imgcls_ray.storage.object_failures import AskAgainError, Failure, ObjectError, check_version
from imgcls_ray.storage.object_stores import open_bucket

if TYPE_CHECKING:
    from datetime import datetime

    from obstore import GetOptions, ObjectMeta

    from imgcls_ray.storage.object_stores import Bucket, Store
    from imgcls_ray.storage.options import StorageOptions
    from imgcls_ray.storage.s3 import S3Requests

Span: TypeAlias = "tuple[int, int] | int | None"
"""Of an object: from a byte to before another, or so many bytes at its end, or all of it."""

WRITER = "imgclswriter"
"""The metadata that tells one attempt to create an object from another; Azure allows letters and digits."""
UPLOAD_PART_BYTES = 32 * 2**20
# What obstore's idea of a path would change, or refuse.
_ODD = re.compile(r"^/|/$|//|(?:^|/)\.\.?(?:/|$)|[\x00-\x1f\x7f]")


class Head(NamedTuple):
    """What is told of an object."""

    size: int
    etag: str
    mtime: datetime | None
    writer: str | None = None


class Answer(NamedTuple):
    """Bytes of an object; the head's size is that of the whole object."""

    data: bytes
    head: Head


def is_odd(key: str) -> bool:
    """Whether a key has parts that obstore cannot name: empty ones, dots, control characters."""
    return _ODD.search(key) is not None


class ObstoreWire:
    """Requests about objects whose keys are not odd; coroutines run in the client's event loop."""

    def __init__(self, kind: str, options: StorageOptions, s3: S3Requests | None) -> None:
        self._kind, self._options, self._s3 = kind, options, s3
        self._buckets: dict[str, Bucket] = {}
        self._opening = asyncio.Lock()

    async def bucket(self, bucket: str) -> Bucket:
        if (known := self.known(bucket)) is not None:
            return known
        async with self._opening:
            if bucket not in self._buckets:
                self._buckets[bucket] = await open_bucket(bucket, self._kind, self._options, self._s3)
            return self._buckets[bucket]

    def known(self, bucket: str) -> Bucket | None:
        """A bucket that was opened before."""
        return self._buckets.get(bucket)

    async def get(
        self, bucket: str, key: str, *, etag: str | None, if_match: bool, span: Span, max_bytes: int | None
    ) -> Answer:
        import obstore

        store = (await self.bucket(bucket)).patient
        if isinstance(span, int) and self._kind == "az":  # which has no ranges from the end
            head = await self.head(bucket, key)
            check_version(head.etag, etag)
            if not head.size:
                return Answer(b"", head)
            span = (max(0, head.size - span), head.size)
            etag, if_match = opaque_etag(head.etag), True
        answer = await obstore.get_async(store, key, options=_get_options(etag if if_match else None, span))
        head = checked_head(answer.meta, etag, max_bytes if span is None else None)
        data = (await answer.bytes_async()).to_bytes()
        return _checked_answer(data, head, answer.range)

    def get_now(self, bucket: Bucket, key: str, *, etag: str | None, if_match: bool, max_bytes: int) -> bytes:
        """Read an object whole, in this thread."""
        import obstore

        answer = obstore.get(bucket.quick, key, options=_get_options(etag if if_match else None, None))
        head = checked_head(answer.meta, etag, max_bytes)
        return _checked_answer(answer.bytes().to_bytes(), head, answer.range).data

    async def head(self, bucket: str, key: str) -> Head:
        import obstore

        store = (await self.bucket(bucket)).patient
        answer = await obstore.get_async(store, key, options={"head": True})
        return head_of(answer.meta)._replace(writer=answer.attributes.get(WRITER))

    async def put(self, bucket: str, key: str, data: bytes, *, writer: str | None) -> None:
        import obstore

        store = await self._writable(bucket)
        if writer is None:
            await obstore.put_async(store, key, data, use_multipart=False)
        else:
            attributes = {WRITER: writer}
            await obstore.put_async(store, key, data, mode="create", attributes=attributes, use_multipart=False)

    async def _writable(self, bucket: str) -> Store:
        if self._options.kms_key is not None and self._kind != "s3":
            raise ObjectError(Failure.STORAGE, "kms_key is for s3:// only; give the bucket a default key")
        return (await self.bucket(bucket)).patient

    async def delete(self, bucket: str, key: str) -> None:
        import obstore

        await obstore.delete_async((await self.bucket(bucket)).patient, key)

    async def upload(self, path: str, bucket: str, key: str) -> None:
        import obstore

        store = await self._writable(bucket)
        is_large = Path(path).stat().st_size > UPLOAD_PART_BYTES
        await obstore.put_async(
            store, key, Path(path), use_multipart=is_large, chunk_size=UPLOAD_PART_BYTES, max_concurrency=4
        )


def head_of(meta: ObjectMeta) -> Head:
    return Head(meta["size"], meta["e_tag"] or "", meta["last_modified"])


def checked_head(meta: ObjectMeta, etag: str | None, max_bytes: int | None) -> Head:
    """The head of an answer, before its body is read.

    Raises:
        ImageError: too_many_bytes.
        ObjectError: it is another version.
    """
    check_version(meta["e_tag"], etag)
    check_size(meta["size"], max_bytes)
    return head_of(meta)


def check_size(size: int, max_bytes: int | None) -> None:
    """Compare the size of an object with the limit.

    Raises:
        ImageError: too_many_bytes.
    """
    if max_bytes is not None and size > max_bytes:
        raise ImageError(ImageErrorCode.TOO_MANY_BYTES, f"{size:,} bytes, the limit is {max_bytes:,}")


def _get_options(etag: str | None, span: Span) -> GetOptions:
    options: GetOptions = {}
    if etag:
        options["if_match"] = f'"{etag}"'
    if isinstance(span, int):
        options["range"] = {"suffix": span}
    elif span is not None:
        options["range"] = span
    return options


def _checked_answer(data: bytes, head: Head, came: tuple[int, int]) -> Answer:
    if len(data) != came[1] - came[0]:
        raise AskAgainError(f"the answer ended after {len(data):,} of {came[1] - came[0]:,} bytes")
    return Answer(data, head)
