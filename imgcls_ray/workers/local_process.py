"""A worker process of this machine, as its parent sees it: what it has in hand, and messages that nobody waits for."""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from imgcls_ray.workers.child import LENGTH
from imgcls_ray.workers.local_worker import BLOCK, NUM_DEATHS
from imgcls_ray.workers.packing import to_ipc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.workers.board import Stage
    from imgcls_ray.workers.forks import Fork
    from imgcls_ray.workers.worker import Block

_MAX_MESSAGE_BYTES = 256 * 2**20
_RECEIVE_BYTES = 256 * 2**10


class WorkerProcess:
    """A process that does blocks.

    Args:
        fork: just made.
        setup: its first message.
    """

    def __init__(self, fork: Fork, setup: bytes) -> None:
        self.fork = fork
        self.in_hand: dict[int, Block] = {}
        """By the block's number: given to it, and not come back."""
        self.begun: set[tuple[Stage, str]] = set()
        """What of that it is computing or making durable, by name."""
        self.is_ready = False
        self._incoming, self._outgoing = bytearray(), bytearray()
        self.send(setup)

    @property
    def events(self) -> int:
        """What to wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)

    def give(self, block: Block, num_deaths: int) -> None:
        self.in_hand[block.number] = block
        self.send(BLOCK + NUM_DEATHS.pack(num_deaths) + to_ipc(block.to_table()))

    def send(self, message: bytes) -> None:
        self._outgoing += LENGTH.pack(len(message)) + message
        self.flush()

    def flush(self) -> None:
        """Give the system what it takes at once."""
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):  # a death is seen when it is read from
            del self._outgoing[: self.fork.connection.send(self._outgoing, socket.MSG_DONTWAIT)]

    def receive(self) -> bool:
        """Take what is there; False when no more will come."""
        with suppress(ConnectionResetError):
            data = self.fork.connection.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            self._incoming += data
            # What says more than a worker has to say is none any more.
            return bool(data) and len(self._incoming) <= _MAX_MESSAGE_BYTES
        return False

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """What has come whole: kind and content."""
        while len(self._incoming) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._incoming)[0]
            if len(self._incoming) < end:
                return
            message = bytes(self._incoming[LENGTH.size : end])
            del self._incoming[:end]
            yield message[:1], message[1:]
