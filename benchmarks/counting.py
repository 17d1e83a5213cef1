"""A store's place that counts what it is asked for."""

from __future__ import annotations

import io
import threading
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from imgcls_ray.storage import Directory

# As S3Directory reads: the end of a file comes with the request that opens it.
_TAIL_BYTES = 2**20


class Counting:
    """A store's place that counts what it is asked for, as requests to S3."""

    def __init__(self, inner: Directory) -> None:
        self._inner, self.uri, self.requests = inner, inner.uri, Counter[str]()
        self._lock = threading.Lock()

    def count(self, kind: str, number: int = 1) -> None:
        # Many threads ask at once, and an addition is not one step.
        with self._lock:
            self.requests[kind] += number

    def entries(self, folder: str = "", *, starts_with: str = "") -> Iterator[str]:
        names = list(self._inner.entries(folder, starts_with=starts_with))
        self.count("list", max(1, -(-len(names) // 1000)))
        return iter(names)

    def open(self, name: str) -> BinaryIO:
        file = self._inner.open(name)
        self.count("get")
        return _CountedFile(file, self.count)  # type: ignore[return-value]

    def read(self, name: str) -> bytes:
        self.count("get")
        return self._inner.read(name)

    def exists(self, name: str) -> bool:
        self.count("head")
        return self._inner.exists(name)

    def create(self, name: str, data: bytes) -> bool:
        self.count("put")
        return self._inner.create(name, data)

    def replace(self, name: str, data: bytes) -> None:
        self.count("put")
        self._inner.replace(name, data)

    def replace_from(self, name: str, path: str) -> None:
        self.count("put")
        self._inner.replace_from(name, path)

    def remove(self, name: str) -> None:
        self.count("delete")
        self._inner.remove(name)


class _CountedFile(io.RawIOBase):
    def __init__(self, file: BinaryIO, count: Callable[[str], None]) -> None:
        self._file, self._count = file, count
        self._size = file.seek(0, 2)
        file.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        if self._file.tell() < self._size - _TAIL_BYTES:
            self._count("get")
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()
        super().close()
