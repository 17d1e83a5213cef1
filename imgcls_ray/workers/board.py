"""What the processes of one command tell each other beside its blocks: who began what, and that it is time to stop.

What was begun and not ended has cost its worker. Of actors on Ray it is kept in the table of Ray's head node, which
every process of a cluster can reach and which outlives them; it needs no actor. Ray's own count of a task's attempts
would not do: it also counts for the units that merely stood beside a guilty one, and runs up in no time while a lost
node is not known to be lost. Of processes of this machine their parent keeps it, to which all of them speak.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from imgcls_ray.workers.ray_table import kv_delete, kv_get, kv_list, kv_put

if TYPE_CHECKING:
    from collections.abc import Iterator

Stage = Literal["label", "decode", "classify"]


@dataclass(frozen=True)
class Board:
    """The notices of one command on Ray. Made by the driver; workers get a copy, which speaks of the same ones."""

    name: str = field(default_factory=lambda: secrets.token_hex(8))

    def begin(self, stage: Stage, unit: str) -> int:
        """Note that work on a unit, by its name, begins.

        Returns:
            How often it was begun before and not ended: how many workers died over it.
        """
        key = self._key(f"{stage}/{unit}")
        num_before = int(kv_get(key) or 0)
        kv_put(key, b"%d" % (num_before + 1))
        return num_before

    def end(self, stage: Stage, unit: str) -> None:
        """Note that the work on a unit is done."""
        kv_delete(self._key(f"{stage}/{unit}"))

    def join(self, stage: Stage, worker: str) -> None:
        """Note that there is a worker for a stage."""
        kv_put(self._key(f"worker/{stage}/{worker}"), b"1")

    def num_joined(self, stage: Stage) -> int:
        """How many workers there were for a stage in this attempt; one that Ray has restarted is the same."""
        return len(kv_list(self._key(f"worker/{stage}/")))

    def take(self, unit: str, node: str) -> None:
        """Note that a worker on a node has a unit in hand; before it looks for a stop, so that none is overlooked."""
        kv_put(self._key(f"hand/{unit}"), node.encode())

    def leave(self, unit: str) -> None:
        """Note that a unit has come back to the driver, durable or never begun."""
        kv_delete(self._key(f"hand/{unit}"))

    def nodes_at_work(self) -> Iterator[str]:
        """The node of each unit in hand; those that a dead worker had in hand are among them."""
        for key in kv_list(self._key("hand/")):
            if (node := kv_get(key)) is not None:
                yield node.decode()

    def note_done(self, stage: Stage, unit: str) -> None:
        """Note that a stage of a unit is done, for workers that hold a copy of the unit."""
        kv_put(self._key(f"done/{stage}/{unit}"), b"1")

    def is_done(self, stage: Stage, unit: str) -> bool:
        return kv_get(self._key(f"done/{stage}/{unit}")) is not None

    def begin_attempt(self) -> None:
        """Remove what the workers of an earlier attempt, which are gone, have noted of themselves and of their units.

        What is done may be lost with them: decoded images are, with their node. A restarted worker may have taken a
        unit again that was back already, and nobody leaves that. How often a unit was begun stays.
        """
        for notes in ("done/", "hand/", "worker/"):
            kv_delete(self._key(notes), by_prefix=True)

    def stop(self) -> None:
        """Tell the workers to begin nothing more."""
        kv_put(self._key("stop"), b"1")

    def is_stopped(self) -> bool:
        return kv_get(self._key("stop")) is not None

    def post(self, message: bytes) -> None:
        """Leave a message for the driver. One worker posts: its clock orders them."""
        kv_put(self._key(f"message/{time.time_ns():020d}"), message)

    def collect(self) -> list[bytes]:
        """Take the messages that were left, in order."""
        messages = []
        for key in sorted(kv_list(self._key("message/"))):
            if (message := kv_get(key)) is not None:
                messages.append(message)
            kv_delete(key)
        return messages

    def clear(self) -> None:
        """Remove what is left on a cluster that lives on."""
        kv_delete(self._key(""), by_prefix=True)

    def _key(self, name: str) -> bytes:
        return f"{self.name}/{name}".encode()


class LocalBoard:
    """The notices of one command whose workers are its own processes: it keeps what they tell it."""

    def __init__(self) -> None:
        self._begun: Counter[tuple[Stage, str]] = Counter()
        self._stopped = threading.Event()
        self.notice, self._notify = socket.socketpair()
        """Can be read once a stop was asked for: for who waits for workers meanwhile."""

    def begin(self, stage: Stage, unit: str) -> int:
        """As ``Board.begin``."""
        num_before = self.num_deaths(stage, unit)
        self._begun[stage, unit] = num_before + 1
        return num_before

    def num_deaths(self, stage: Stage, unit: str) -> int:
        """How often a unit that nobody works on now was begun and not ended."""
        return self._begun[stage, unit]

    def end(self, stage: Stage, unit: str) -> None:
        """Note that the work on a unit is done."""
        del self._begun[stage, unit]

    def take_back(self, stage: Stage, unit: str) -> None:
        """Forget that a unit was begun by a worker of whose end it is innocent."""
        self._begun[stage, unit] -= 1

    def clear(self) -> None:
        """Forget what was begun by workers that are all gone."""
        self._begun.clear()

    def stop(self) -> None:
        """Tell the workers to begin nothing more. Any thread may."""
        self._stopped.set()
        with suppress(BlockingIOError):  # it was told before, many times
            self._notify.send(b"s", socket.MSG_DONTWAIT)

    def is_stopped(self) -> bool:
        return self._stopped.is_set()
