"""How much a replica has in work: images and bytes, and how much of both it may have.

A request asks for its part once, when it is admitted, and gives it back once, whatever ends it: its answer, an error, a
caller who has gone, the deadline.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls_ray.serve.errors import no_room, too_large

if TYPE_CHECKING:
    from collections.abc import Callable

# How long a request whose body is still uploading keeps a slot. Bodies of quick callers are there much sooner; slow
# ones would keep everybody else out.
_SLOT_S = 0.5
# While a room is full, nobody is heard until a quarter of its images has left: what waits then is work for three times
# as long, and a replica that has much to do takes a while to refuse the next one.
_PAUSE_SHARE = 1 / 4
_MAX_PAUSE_S = 0.25
# How fast images leave is counted over so long at least, and is not known after so long without a question.
_RATE_S = 0.25
_MAX_RATE_S = 2.0


@dataclass
class Room:
    """The limits of one replica, and what it has in work now. Only its event loop may use it."""

    max_images: int
    max_bytes: int
    """Of all requests together."""
    max_request_bytes: int
    """Of one request, unpacked, with what is fetched for it."""
    num_images: Callable[[], int]
    num_done: Callable[[], int] = int
    """Images that have left, ever."""
    num_bytes: int = 0

    def __post_init__(self) -> None:
        self._slots: dict[Reservation, float] = {}  # when each was reserved; the oldest first
        self._rate = 0.0  # images that leave in a second
        self._mark = (-_MAX_RATE_S, 0)  # since when, and after how many images it is counted

    def is_full(self) -> bool:
        """Whether there is no room for a single image, with one for each request that holds a slot."""
        while self._slots and next(iter(self._slots.values())) < time.monotonic() - _SLOT_S:
            del self._slots[next(iter(self._slots))]
        # Heads without bodies cost their callers nothing: they alone do not fill the room.
        return self.num_images() + min(len(self._slots), (self.max_images + 1) // 2) >= self.max_images

    def pause_s(self) -> float:
        """For how long nobody need ask, now that the room is full; 0 if that is not known."""
        now, num_done = time.monotonic(), self.num_done()
        since, before = self._mark
        if now - since > _RATE_S:
            self._rate = (num_done - before) / (now - since) if now - since < _MAX_RATE_S else 0.0
            self._mark = (now, num_done)
        return min(_PAUSE_SHARE * self.max_images / self._rate, _MAX_PAUSE_S) if self._rate else 0.0

    def reserve_slot(self, request: Reservation) -> None:
        """Keep room for an image of a request whose body is still to come, for half a second at most.

        Without that, everyone who comes while the next body is read would be admitted for the one image that there is
        room for, and be refused when all is read.
        """
        self._slots[request] = time.monotonic()

    def release_slot(self, request: Reservation) -> None:
        """Count a request by its images from now on; one without a slot is no error."""
        self._slots.pop(request, None)

    def check_bytes(self, num_request_bytes: int, num_new_bytes: int = 0) -> None:
        """Refuse a request of so many bytes, with so many of them not in ``num_bytes`` yet.

        Raises:
            ApiError: one request may not have so many, or all together.
        """
        if num_request_bytes > self.max_request_bytes:
            raise too_large(self.max_request_bytes)
        if self.num_bytes + num_new_bytes > self.max_bytes:
            raise no_room("bytes")


class Reservation:
    """What one request takes up of a replica's room. Of a request that is admitted in two places there is one."""

    def __init__(self, room: Room) -> None:
        self.num_bytes = 0
        """Read for this request, also after it was given back."""
        self._room = room
        self._has_slot = False  # or had one: it is not asked for again
        self._is_given_back = False

    def ask(self) -> bool:
        """Take a slot for the image that the request will bring, if none was taken for it before.

        Returns:
            Whether there is room.
        """
        if not self._has_slot:
            if self._room.is_full():
                return False
            self._has_slot = True
            self._room.reserve_slot(self)
        return True

    def check_announced(self, num_bytes: int) -> None:
        """Refuse a body by its length, before it is read.

        Raises:
            ApiError: it is too large, or there is no room for it.
        """
        self._room.check_bytes(num_bytes, num_bytes)

    def add_bytes(self, num_bytes: int) -> None:
        """Count what was read for this request.

        Raises:
            ApiError: it is too large, or there is no room for it.
        """
        self.num_bytes += num_bytes
        if not self._is_given_back:
            self._room.num_bytes += num_bytes
        self._room.check_bytes(self.num_bytes)

    def release_slot(self) -> None:
        """The body is there: its images count themselves."""
        self._room.release_slot(self)

    def give_back(self) -> None:
        """End it. Proxy and replica both do, and the first counts."""
        if not self._is_given_back:
            self._is_given_back = True
            self._room.num_bytes -= self.num_bytes
            self._room.release_slot(self)
