"""A prefix of a bucket as the place of a label store: objects appear complete, and never overwrite each other."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imgcls_ray.errors import LabelStoreError, StorageError
from imgcls_ray.storage.files import opaque_etag
from imgcls_ray.storage.object_client import client_of
from imgcls_ray.storage.object_failures import Failure, ObjectError
from imgcls_ray.storage.object_listing import list_level
from imgcls_ray.storage.schemes import split_uri
from imgcls_ray.storage.seekable import SeekableFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from imgcls_ray.storage.object_wire import Answer, Span
    from imgcls_ray.storage.options import StorageOptions

# Most parts are smaller and come whole with the one request for their end, where Parquet keeps its table of contents.
_TAIL_BYTES = 2**20
_TAILS_KEPT = 4


class ObjectDirectory:
    """Implements ``Directory``; ``create`` is one conditional request."""

    def __init__(self, uri: str, options: StorageOptions) -> None:
        self._bucket, prefix = split_uri(uri)
        self._client = client_of(uri, options)
        self._prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
        self.uri = f"{self._bucket}/{self._prefix}".rstrip("/")
        self._tails = _Tails()

    def entries(self, folder: str = "", *, starts_with: str = "") -> Iterator[str]:
        prefix = self._prefix + (f"{folder}/" if folder else "")
        try:
            for name in list_level(self._client, self._bucket, prefix + starts_with):
                if name != prefix:  # some tools mark a folder with an object of its name
                    yield name.removeprefix(prefix).rstrip("/")
        except ObjectError as error:
            if error.failure is Failure.NO_BUCKET:
                raise self._no_bucket(error) from error
            raise self._client.storage_error(f"{self._bucket}/{prefix}: cannot be listed", error) from error

    def exists(self, name: str) -> bool:
        try:
            self._client.head(self._bucket, self._prefix + name)
        except ObjectError as error:
            if error.failure is Failure.MISSING:
                return False
            raise self._client.storage_error(f"{self.uri}/{name}: cannot be looked up", error) from error
        return True

    def open(self, name: str) -> BinaryIO:
        tail = self._tails.get(name)
        if tail is None:
            tail = self._read_tail(name)
            self._tails.put(name, tail)
        # Buffered would read ahead what Arrow does not ask for.
        return _ObjectFile(self, name, tail)  # type: ignore[return-value]

    def read(self, name: str) -> bytes:
        return self._get(name).data

    def read_range(self, name: str, start: int, stop: int, etag: str) -> bytes:
        """Bytes ``start`` to before ``stop`` of the version that was opened."""
        return self._get(name, span=(start, stop), etag=opaque_etag(etag)).data

    def create(self, name: str, data: bytes) -> bool:
        with self._writing(name):
            return self._client.create(self._bucket, self._prefix + name, data)

    def replace(self, name: str, data: bytes) -> None:
        with self._writing(name):
            self._client.replace(self._bucket, self._prefix + name, data)

    def replace_from(self, name: str, path: str) -> None:
        with self._writing(name):
            self._client.upload(path, self._bucket, self._prefix + name)

    def remove(self, name: str) -> None:
        with self._writing(name):
            self._client.delete(self._bucket, self._prefix + name)

    def _read_tail(self, name: str) -> _Tail:
        try:
            answer = self._get(name, span=_TAIL_BYTES)
        except _EmptyError:
            return _Tail(b"", 0, "")
        return _Tail(answer.data, answer.head.size, answer.head.etag)

    def _get(self, name: str, *, span: Span = None, etag: str | None = None) -> Answer:
        try:
            return self._client.get(self._bucket, self._prefix + name, etag=etag, span=span)
        except ObjectError as error:
            if error.failure is Failure.MISSING:
                raise FileNotFoundError(f"{self.uri}/{name}: there is no such object") from error
            if error.failure is Failure.EMPTY_RANGE:
                raise _EmptyError from error
            if error.failure is Failure.NO_BUCKET:
                raise self._no_bucket(error) from error
            raise self._client.storage_error(f"{self.uri}/{name}: cannot be read", error) from error

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except ObjectError as error:
            raise self._write_error(name, error) from error

    def _no_bucket(self, error: ObjectError) -> LabelStoreError:
        return LabelStoreError(f"{self.uri}: {self._client.why_no_bucket(self._bucket, error, may_be_made=True)}")

    def _write_error(self, name: str, error: ObjectError) -> StorageError:
        if error.failure is Failure.STORAGE and str(error).startswith("501"):
            return StorageError(
                f"{self.uri}: {self._client.place} knows no conditional writes (If-None-Match), which keep two writers "
                "from doubling rows; use a server that does, or a local --output"
            )
        return self._client.storage_error(f"{self.uri}/{name}: cannot be written", error)


class _EmptyError(Exception):
    """The object has no bytes."""


class _Tail:
    """The last bytes of an object, its size and its version."""

    def __init__(self, data: bytes, size: int, etag: str) -> None:
        self.data, self.size, self.etag = data, size, etag


class _Tails:
    """The tails of the files opened last: every unit opens the plan file that the one before it opened.

    Files of a store never change under their names.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tails: OrderedDict[str, _Tail] = OrderedDict()

    def get(self, name: str) -> _Tail | None:
        with self._lock:
            if name in self._tails:
                self._tails.move_to_end(name)
            return self._tails.get(name)

    def put(self, name: str, tail: _Tail) -> None:
        with self._lock:
            self._tails[name] = tail
            while len(self._tails) > _TAILS_KEPT:
                self._tails.popitem(last=False)


class _ObjectFile(SeekableFile):
    """Reads an object's tail from memory and anything before it by ranges."""

    def __init__(self, directory: ObjectDirectory, name: str, tail: _Tail) -> None:
        super().__init__(tail.size)
        self._directory, self._name, self._tail = directory, name, tail

    def read(self, size: int = -1, /) -> bytes:
        start = self.position
        stop = self.size if size < 0 else min(self.size, start + size)
        if start >= stop:
            return b""
        tail_start = self.size - len(self._tail.data)
        if start >= tail_start:
            data = self._tail.data[start - tail_start : stop - tail_start]
        else:
            data = self._directory.read_range(self._name, start, stop, self._tail.etag)
        self.position = stop
        return data
