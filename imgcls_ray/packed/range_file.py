"""A file of any storage as Python's libraries read files, by ranges: no more of it than they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.storage import FetchLimits, fetch_range
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.storage.seekable import SeekableFile

if TYPE_CHECKING:
    from imgcls_ray.storage.files import FileInfo

# Of a file here, every read is cheap. Over a network, a request takes as long as reading about a megabyte: what is
# skipped up to there is read, in requests that grow; behind a larger gap only a little is asked for.
_LOCAL_BYTES = 4096
_FIRST_BYTES, _MOST_BYTES = 64 * 2**10, 8 * 2**20
_READ_THROUGH_BYTES = 2**20


class RangeFile(SeekableFile):
    """What its storage says against reading it is an ``ImageError``.

    Args:
        info: of the file, with its size.
        limits: how it is reached.
        max_read: no library may ask for more bytes at once, because they believe what a file says of itself.
    """

    def __init__(self, info: FileInfo, limits: FetchLimits, *, max_read: int) -> None:
        super().__init__(info.size or 0)
        self._info, self._limits, self._max_read = info, limits, max_read
        self._start = 0
        self._data = b""
        self._is_remote = is_object(info.uri)
        self._window = _FIRST_BYTES // 2

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self.size - self.position)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        if wanted > self._max_read:
            raise ImageError(
                ImageErrorCode.CORRUPT, f"a part of its directory has {wanted:,} bytes, the limit is {self._max_read:,}"
            )
        at = self.position - self._start
        if not 0 <= at <= at + wanted <= len(self._data):
            self._fill(wanted)
            at = 0
        data = self._data[at : at + wanted]
        self.position += len(data)
        return data

    def _fill(self, wanted: int) -> None:
        gap = self.position - (self._start + len(self._data))
        if not self._is_remote:
            self._window = _LOCAL_BYTES
        elif -len(self._data) <= gap <= _READ_THROUGH_BYTES:
            self._window = min(2 * self._window, _MOST_BYTES)
        else:
            self._window = _FIRST_BYTES
        length = min(max(wanted, self._window), self.size - self.position)
        self._data = fetch_range(self._info.uri, self.position, length, self._info.etag, self._limits)
        self._start = self.position
        if len(self._data) < wanted:
            raise ImageError(ImageErrorCode.CHANGED, "it became shorter while it was read")
