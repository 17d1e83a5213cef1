"""What the processes of one command tell each other beside Ray Data: who began what, and that it is time to stop.

Kept in the table of Ray's head node, which every process of a cluster can reach and which outlives them; it needs no
actor. Ray's own count of a task's attempts would not do: it also counts for the units that merely stood beside a
guilty one, and runs up in no time while a lost node is not known to be lost.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Literal

from imgcls_ray.workers.ray_table import kv_delete, kv_get, kv_list, kv_put

Stage = Literal["label", "decode", "classify"]


@dataclass(frozen=True)
class Board:
    """The notices of one command. Made by the driver; workers get a copy, which speaks of the same ones."""

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
