"""Read the inputs of a unit ahead of the work: in order, several at a time, a bounded number of bytes.

A worker has two units in hand: what is ahead is at most twice the bounds here, and one image of any size for each.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import pyarrow as pa

from imgcls_ray.errors import ImageError
from imgcls_ray.storage import FetchLimits, fetch
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor

# At 50 ms an object, what feeds 300 images a second with some to spare: threads that wait cost nothing.
NUM_FETCH_THREADS = 32
_FILES_AHEAD = 64
_BYTES_AHEAD = 32 * 2**20
# Addresses do not tell their size before they are read: sixteen ahead.
_UNKNOWN_BYTES = 2 * 2**20
# A file costs less than handing it to another thread: files travel in groups, what is far away alone.
_FILES_PER_GROUP = 8


def any_version(uris: pa.Array | pa.ChunkedArray | Sequence[str]) -> pa.Table:
    """Rows for ``fetch_inputs`` of inputs that no plan has looked at: whatever is there is taken."""
    nothing = {"etag": pa.nulls(len(uris), pa.string()), "size": pa.nulls(len(uris), pa.int64())}
    return pa.table({"uri": uris, **nothing})


def fetch_inputs(rows: pa.Table, limits: FetchLimits, executor: ThreadPoolExecutor) -> Iterator[bytes | ImageError]:
    """Read the inputs of a plan's rows. Reading begins with this call, and goes on as results are taken.

    Args:
        rows: columns ``uri``, ``etag`` and ``size``.
        limits: bounds of one read.
        executor: its threads do the reading.

    Returns:
        Content or failure of each row, in order.
    """
    window = _Window(rows, limits, executor)
    window.fill()
    return window.read()


class _Window:
    """The reads that were started and whose results were not taken yet."""

    def __init__(self, rows: pa.Table, limits: FetchLimits, executor: ThreadPoolExecutor) -> None:
        self._groups = _groups(rows)
        self._limits, self._executor = limits, executor
        self._ahead: deque[tuple[Future[list[bytes | ImageError]], int, int]] = deque()
        self._num_ahead = self._bytes_ahead = 0

    def fill(self) -> None:
        ahead = self._ahead
        while not ahead or (self._num_ahead < _FILES_AHEAD and self._bytes_ahead < _BYTES_AHEAD):
            group = next(self._groups, None)
            if group is None:
                return
            inputs, num_bytes = group
            ahead.append((self._executor.submit(_fetch_group, inputs, self._limits), len(inputs), num_bytes))
            self._num_ahead += len(inputs)
            self._bytes_ahead += num_bytes

    def read(self) -> Iterator[bytes | ImageError]:
        while self._ahead:
            future, num_inputs, num_bytes = self._ahead.popleft()
            yield from future.result()
            self._num_ahead -= num_inputs
            self._bytes_ahead -= num_bytes
            self.fill()


def _groups(rows: pa.Table) -> Iterator[tuple[list[tuple[str, str | None]], int]]:
    columns = (rows.column(name).to_pylist() for name in ("uri", "etag", "size"))
    inputs: list[tuple[str, str | None]] = []
    num_bytes = 0
    for uri, etag, size in zip(*columns, strict=True):
        inputs.append((uri, etag))
        num_bytes += size or _UNKNOWN_BYTES
        if is_url(uri) or is_object(uri) or len(inputs) == _FILES_PER_GROUP or num_bytes >= _BYTES_AHEAD // 4:
            yield inputs, num_bytes
            inputs, num_bytes = [], 0
    if inputs:
        yield inputs, num_bytes


def _fetch_group(inputs: list[tuple[str, str | None]], limits: FetchLimits) -> list[bytes | ImageError]:
    return [_fetch_one(uri, etag, limits) for uri, etag in inputs]


def _fetch_one(uri: str, etag: str | None, limits: FetchLimits) -> bytes | ImageError:
    try:
        return fetch(uri, etag, limits)
    except ImageError as error:
        return error.as_value()
