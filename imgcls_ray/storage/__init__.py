"""Files and bytes behind any URI; the only module that other packages read and write files with.

Inputs are read with ``fetch``: one attempt-bounded, size-bounded read per image whose failures are ``ImageError``
values of the closed set. The label store is in a ``Directory``: atomic, create-only files. A further kind of
storage is one more module here and one more line in each function below.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from imgcls_ray.defaults import FETCH_TIMEOUT_S, MAX_IMAGE_BYTES
from imgcls_ray.errors import ImageError, ImageErrorCode, InputError
from imgcls_ray.storage.files import check_address, host_of_file, path_from_uri, scheme_of
from imgcls_ray.storage.http import fetch_url, is_url
from imgcls_ray.storage.local import LocalDirectory, fetch_file, fetch_part
from imgcls_ray.storage.object_directory import ObjectDirectory
from imgcls_ray.storage.object_inputs import copy_object
from imgcls_ray.storage.object_reading import fetch_object
from imgcls_ray.storage.options import StorageOptions
from imgcls_ray.storage.schemes import ADDRESSES, is_hub, is_object

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, BinaryIO


DEFAULT_STORAGE = StorageOptions()


@dataclass(frozen=True)
class FetchLimits:
    """Limits of one read: bytes, time and hosts."""

    max_bytes: int = MAX_IMAGE_BYTES
    timeout_s: float = FETCH_TIMEOUT_S
    """Deadline of one read over a network, seconds; all attempts together."""
    allow_private_urls: bool = False
    """Whether http(s) addresses may resolve to loopback, private or link-local hosts."""
    storage: StorageOptions = DEFAULT_STORAGE


class Directory(Protocol):
    """A place of named files: a folder, or a prefix of a bucket. Names use ``/`` and are relative."""

    uri: str

    def entries(self, folder: str = "", *, starts_with: str = "") -> Iterator[str]:
        """Names directly in a folder, of files and of folders, in no particular order; none if it does not exist.

        Raises:
            StorageError: it cannot be listed.
        """

    def exists(self, name: str) -> bool:
        """Whether the complete file exists.

        Raises:
            StorageError: the storage gives no certain answer.
        """

    def open(self, name: str) -> BinaryIO:
        """Open for reading, seekable.

        Raises:
            FileNotFoundError: there is no such file.
        """

    def read(self, name: str) -> bytes:
        """Read a small file.

        Raises:
            FileNotFoundError: there is no such file.
        """

    def create(self, name: str, data: bytes) -> bool:
        """Write a new file in one durable step. ``False``: the name exists, and its content is unchanged.

        Raises:
            StorageError: it cannot be written, e.g. because the disk is full; no file of that name is left.
        """

    def replace(self, name: str, data: bytes) -> None:
        """Write a file in one durable step, over an older one if there is one.

        Raises:
            StorageError: it cannot be written; an older one stays.
        """

    def replace_from(self, name: str, path: str) -> None:
        """Write a file of any size from a local one, in one durable step, over an older one if there is one.

        Raises:
            StorageError: it cannot be written; an older one stays.
        """

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens if it is gone already."""


def fetch(uri: str, etag: str | None, limits: FetchLimits) -> bytes:
    """Read one input whole.

    Args:
        uri: path, ``file://`` URI, URI of object storage or http(s) address.
        etag: the version that was planned; ``None`` reads any version.
        limits: bounds on bytes, time and reachable hosts.

    Raises:
        ImageError: this input cannot be read; the code says why.
        StorageError: no input of this storage can be read: unreachable, wrong credentials, no such bucket.
    """
    if is_object(uri):
        return fetch_object(uri, limits.storage, etag=etag, max_bytes=limits.max_bytes, timeout_s=limits.timeout_s)
    if is_url(uri):
        return fetch_url(
            uri, max_bytes=limits.max_bytes, timeout_s=limits.timeout_s, allow_private=limits.allow_private_urls
        )
    if (scheme := scheme_of(uri)) not in ("", "file"):
        raise ImageError(ImageErrorCode.UNSUPPORTED_STORAGE, f"{scheme}://")
    if host := host_of_file(uri):
        raise ImageError(ImageErrorCode.UNSUPPORTED_STORAGE, f"a file of the host {host}")
    return fetch_file(path_from_uri(uri), etag=etag, max_bytes=limits.max_bytes)


def fetch_range(uri: str, offset: int, length: int, etag: str | None, limits: FetchLimits) -> bytes:
    """Read a part of a file or object; fewer bytes where it ends before.

    Args:
        uri: path, ``file://`` URI or URI of object storage.
        offset: of the first byte.
        length: number of bytes, maybe none. ``limits.max_bytes`` is for what they hold, not for the part.
        etag: the version that was planned; ``None`` reads any version.
        limits: bounds on time, and how to reach the storage.

    Raises:
        ImageError, StorageError: as ``fetch``.
    """
    if not length:
        return b""
    if is_object(uri):
        span = (offset, offset + length)
        return fetch_object(uri, limits.storage, etag=etag, max_bytes=length, timeout_s=limits.timeout_s, span=span)
    if (scheme := scheme_of(uri)) not in ("", "file"):
        raise ImageError(ImageErrorCode.UNSUPPORTED_STORAGE, f"parts of what is at {scheme}://")
    if host := host_of_file(uri):
        raise ImageError(ImageErrorCode.UNSUPPORTED_STORAGE, f"a file of the host {host}")
    return fetch_part(path_from_uri(uri), offset, length, etag=etag)


def open_directory(uri: str, storage: StorageOptions = DEFAULT_STORAGE, *, only_read: bool = False) -> Directory:
    """Open the place of a label store, a result, a model folder or a dataset; it need not exist yet.

    Args:
        uri: path or URI.
        storage: how to reach object storage.
        only_read: nothing will be written there, so it may be on the Hugging Face Hub.

    Raises:
        InputError: the kind of storage is unknown or cannot be written, or the address is mistyped.
    """
    check_address(uri)
    if is_hub(uri) and not only_read:
        raise InputError(
            f"{uri}: images, datasets and models are read from the Hugging Face Hub, but nothing is written there; "
            f"give a local directory or {ADDRESSES}"
        )
    if is_object(uri):
        return ObjectDirectory(uri, storage)
    if scheme_of(uri) not in ("", "file"):
        raise InputError(f"{uri}: a label store cannot be kept there; give a local directory or {ADDRESSES}")
    return LocalDirectory(path_from_uri(uri))


def open_file(uri: str, storage: StorageOptions) -> IO[bytes]:
    """Open one file for reading, e.g. a list; seekable.

    Raises:
        InputError: it is not there, or cannot be read.
        StorageError: its storage cannot be read.
    """
    if is_object(uri):
        return copy_object(uri, storage)
    path = path_from_uri(uri)
    try:
        # Opening a pipe would wait for its writer, and it can be read only once.
        if not stat.S_ISREG(os.stat(path).st_mode):
            what = "a folder" if os.path.isdir(path) else "a pipe, socket or device"
            raise InputError(f"{path}: cannot be read: it is {what}, not a file")
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
