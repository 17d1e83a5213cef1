"""An INPUT on object storage: one object, everything under a prefix, or a pattern."""

from __future__ import annotations

import re
import tempfile
from datetime import UTC
from typing import IO, TYPE_CHECKING

from imgcls_ray.errors import ImgclsError, InputError
from imgcls_ray.storage.local import FileInfo
from imgcls_ray.storage.s3 import STORE_DEADLINE_S, s3_client, split_uri
from imgcls_ray.storage.s3_failures import Failure, S3Error
from imgcls_ray.storage.s3_listing import is_any_under, list_objects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.storage.s3 import S3Client, S3Options

_MAGIC = re.compile(r"[*?\[]")
_COPY_BYTES = 64 * 2**20


def find_object(uri: str, options: S3Options) -> FileInfo | None:
    """The object of exactly this name, or ``None``.

    Raises:
        InputError: there is no such bucket.
        StorageError: that cannot be told.
    """
    bucket, key = split_uri(uri)
    client = s3_client(options)
    if not key or key.endswith("/"):
        return None
    try:
        head = client.request("head_object", Bucket=bucket, Key=key)
    except S3Error as error:
        # Without the right to list, S3 says of a missing object that it is refused: the listing decides.
        if error.failure in (Failure.MISSING, Failure.DENIED):
            return None
        raise _input_error(client, uri, bucket, error) from error
    mtime = head["LastModified"].astimezone(UTC)
    return FileInfo(f"s3://{bucket}/{key}", head["ContentLength"], head["ETag"].strip('"'), mtime)


def check_place(uri: str, options: S3Options) -> None:
    """Refuse an INPUT that cannot be listed.

    A prefix that ends with ``/`` may be empty: files may arrive there later. A name that is neither an object nor
    holds any is a mistake.

    Raises:
        InputError: there is no such bucket, object or prefix.
        StorageError: it cannot be listed.
    """
    bucket, key = split_uri(uri)
    client = s3_client(options)
    if find_object(uri, options) is not None:
        return
    try:
        is_there = is_any_under(client, bucket, _prefix(key))
    except S3Error as error:
        raise _input_error(client, uri, bucket, error) from error
    if not is_there and key and not key.endswith("/") and not _MAGIC.search(key):
        raise InputError(f"{uri}: there is no such object, and none under {uri}/")


def list_place(uri: str, options: S3Options) -> Iterator[FileInfo]:
    """List an object, a prefix or a pattern, in the order of the URIs.

    ``*`` and ``?`` match within a folder, ``**`` across folders; an object of exactly the pattern's name comes first.

    Raises:
        InputError, StorageError: it cannot be listed.
    """
    bucket, key = split_uri(uri)
    client = s3_client(options)
    if (info := find_object(uri, options)) is not None:
        yield info
        return
    try:
        yield from _matching(list_objects(client, bucket, _prefix(key)), bucket, key)
    except S3Error as error:
        raise _input_error(client, uri, bucket, error) from error


def copy_object(uri: str, options: S3Options) -> IO[bytes]:
    """Copy an object to a temporary file without a name, and open it: a list that is read more than once.

    Raises:
        InputError: there is no such object.
        StorageError: it cannot be read.
    """
    bucket, key = split_uri(uri)
    client = s3_client(options)
    info = find_object(uri, options)
    if info is None or info.size is None:
        raise _why_not_found(client, uri, bucket, key)
    file = tempfile.TemporaryFile(prefix="imgcls-copy-")  # noqa: SIM115 - the caller's
    try:
        for start in range(0, info.size, _COPY_BYTES):
            data, _ = client.get(
                bucket,
                key,
                deadline_s=STORE_DEADLINE_S,
                Range=f"bytes={start}-{min(start + _COPY_BYTES, info.size) - 1}",
                IfMatch=f'"{info.etag}"',
            )
            file.write(data)
    except S3Error as error:
        file.close()
        raise _input_error(client, uri, bucket, error) from error
    file.seek(0)
    return file


def _prefix(key: str) -> str:
    """The part of a key that everything meant by it begins with."""
    magic = _MAGIC.search(key)
    if magic:
        return key[: key.rfind("/", 0, magic.start()) + 1]
    return key if not key or key.endswith("/") else f"{key}/"


def _matching(objects: Iterator[FileInfo], bucket: str, key: str) -> Iterator[FileInfo]:
    if not _MAGIC.search(key):
        yield from objects
        return
    from fsspec.utils import glob_translate

    pattern = re.compile(glob_translate(f"s3://{bucket}/{key}"))
    yield from (info for info in objects if pattern.match(info.uri))


def _why_not_found(client: S3Client, uri: str, bucket: str, key: str) -> ImgclsError:
    # The answer to HEAD has no words; a GET is told whether it is the name, the rights or the credentials.
    if key and not key.endswith("/"):
        try:
            client.get(bucket, key, deadline_s=STORE_DEADLINE_S, Range="bytes=0-0")
        except S3Error as error:
            if error.failure is not Failure.MISSING:
                return _input_error(client, uri, bucket, error)
    return InputError(f"{uri}: there is no such object that may be read")


def _input_error(client: S3Client, uri: str, bucket: str, error: S3Error) -> ImgclsError:
    if error.failure is Failure.NO_BUCKET:
        return InputError(f"{uri}: there is no bucket {bucket!r} ({error}); check its name, and the endpoint")
    if error.failure is Failure.MISSING:
        return InputError(f"{uri}: there is no such object ({error})")
    return client.storage_error(f"{uri}: cannot be read", error)
