"""Several requests to a store's storage at a time, with their results in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from imgcls_ray.storage import Directory

T = TypeVar("T")
R = TypeVar("R")

THREADS = 16
"""Requests at a time; with 1 everything happens in the caller's thread."""


def in_parallel(directory: Directory, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results of a function in the order of the items; at most a few more are worked on than were taken.

    Only requests to object storage wait for answers. Files are there at once: threads only take Python's lock from each
    other, and reading thousands of small files took three to six times as long with them. So these are read in the
    caller's thread.

    Args:
        directory: of the store that the function asks.
        function: of one item.
        items: taken as they are needed.
    """
    if THREADS == 1 or not is_object(directory.uri):
        yield from map(function, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="store") as executor:
        try:
            for item in items:
                waiting.append(executor.submit(function, item))
                if len(waiting) >= 2 * THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            executor.shutdown(cancel_futures=True)
