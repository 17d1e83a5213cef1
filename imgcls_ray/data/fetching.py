"""Read the inputs of a unit ahead of the work: in order, several at a time, a bounded number of bytes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImageError
from imgcls_ray.storage import FetchLimits, fetch
from imgcls_ray.storage.http import is_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future, ThreadPoolExecutor

    import pyarrow as pa

NUM_FETCH_THREADS = 16
_FILES_AHEAD = 64
_BYTES_AHEAD = 64 * 2**20
# Addresses do not tell their size before they are read: sixteen ahead.
_UNKNOWN_BYTES = 4 * 2**20
# A file costs less than handing it to another thread: files travel in groups, addresses alone.
_FILES_PER_GROUP = 8


def fetch_inputs(rows: pa.Table, limits: FetchLimits, executor: ThreadPoolExecutor) -> Iterator[bytes | ImageError]:
    """Read the inputs of a plan's rows.

    Args:
        rows: columns ``uri``, ``etag`` and ``size``.
        limits: bounds of one read.
        executor: its threads do the reading.

    Yields:
        Content or failure of each row, in order.
    """
    groups = _groups(rows)
    ahead: deque[tuple[Future[list[bytes | ImageError]], int, int]] = deque()
    num_ahead = bytes_ahead = 0
    exhausted = False
    while True:
        while not exhausted and (not ahead or (num_ahead < _FILES_AHEAD and bytes_ahead < _BYTES_AHEAD)):
            group = next(groups, None)
            if group is None:
                exhausted = True
                break
            inputs, num_bytes = group
            ahead.append((executor.submit(_fetch_group, inputs, limits), len(inputs), num_bytes))
            num_ahead, bytes_ahead = num_ahead + len(inputs), bytes_ahead + num_bytes
        if not ahead:
            return
        future, num_inputs, num_bytes = ahead.popleft()
        yield from future.result()
        num_ahead, bytes_ahead = num_ahead - num_inputs, bytes_ahead - num_bytes


def _groups(rows: pa.Table) -> Iterator[tuple[list[tuple[str, str | None]], int]]:
    columns = (rows.column(name).to_pylist() for name in ("uri", "etag", "size"))
    inputs: list[tuple[str, str | None]] = []
    num_bytes = 0
    for uri, etag, size in zip(*columns, strict=True):
        inputs.append((uri, etag))
        num_bytes += size or _UNKNOWN_BYTES
        if is_url(uri) or len(inputs) == _FILES_PER_GROUP or num_bytes >= _BYTES_AHEAD // 4:
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
        return error
