"""The order in which images that wait for decoder processes get them.

Requests take turns, so that one of many images does not keep another waiting. Shadow traffic gets what nobody else
wants. Nothing here knows of processes or threads: a pool (``serve/pool.py``) calls it under its own lock.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from imgcls_ray.serve.decoders import Decoding, Drawing

# Of a lane's mean time per image, what one more image counts.
_WEIGHT = 0.2


class Work:
    """Something to do with one encoded image, for one request."""

    def __init__(
        self, data: bytes | None, task: Decoding | Drawing, future: asyncio.Future[Any], request: object
    ) -> None:
        self.data = data
        self.task = task
        self.future = future
        self.request = request
        """Whose turn it is when this is done: any object."""
        self.is_shadow = False


class Lane:
    """Images that wait for processes of one kind; under the lock of its pool."""

    def __init__(self, num_processes: int, max_pixels: int, *, is_background: bool = False) -> None:
        self.num_processes = num_processes
        self.max_pixels = max_pixels
        """For whose memory a process has room."""
        self.is_background = is_background
        """Its processes run when nobody else needs the cores."""
        self.waiting: dict[object, deque[Work]] = {}
        """By request, the one whose turn it is first."""
        self.shadows: deque[Work] = deque()
        """Taken when nothing else waits."""
        self.running: list[Work] = []
        self.mean_s = 0.0

    def __len__(self) -> int:
        return sum(1 for _ in self.works())

    def works(self) -> Iterator[Work]:
        """What runs and what waits, without what is being given up and shadows."""
        for works in (self.running, *self.waiting.values()):
            yield from (work for work in works if not (work.is_shadow or work.future.done()))

    def num_bytes(self) -> int:
        return sum(len(work.data or b"") for work in self.works())

    def expected_wait_s(self, request: object) -> float:
        """How long a request's next image waits; 0 for one whose turn comes anyway."""
        if request in self.waiting:
            return 0.0
        return (len(self.running) + len(self.waiting)) * self.mean_s / self.num_processes

    def add(self, work: Work) -> None:
        if work.is_shadow:
            self.shadows.append(work)
            return
        self.waiting.setdefault(work.request, deque()).append(work)

    def take(self) -> Work | None:
        """The next image; its request's others come after those of all other requests, and shadows after all."""
        while (work := self._next()) is not None:
            if not work.future.done():
                self.running.append(work)
                return work
        return None

    def _next(self) -> Work | None:
        if not self.waiting:
            return self.shadows.popleft() if self.shadows else None
        request = next(iter(self.waiting))
        queue = self.waiting.pop(request)
        work = queue.popleft()
        if queue:
            self.waiting[request] = queue
        return work

    def remove(self, work: Work) -> None:
        """Forget one that waits."""
        queue = self.waiting.get(work.request)
        if queue is not None and work in queue:
            queue.remove(work)
            if not queue:
                del self.waiting[work.request]

    def leave(self, work: Work, seconds: float) -> None:
        """One that ran does so no more."""
        self.running.remove(work)
        self.mean_s += _WEIGHT * (seconds - self.mean_s)
