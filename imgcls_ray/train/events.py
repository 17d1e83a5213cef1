"""What the first worker tells the command: how far it is, over the board of Ray's head node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from imgcls_ray.data.board import Board


class Event(NamedTuple):
    """One message."""

    kind: str
    """``begin``, ``step`` or ``epoch``."""
    values: dict[str, Any]


def send(board: Board, kind: str, values: dict[str, Any]) -> None:
    """Tell the command something."""
    board.post(json.dumps([kind, values]).encode())


def receive(board: Board) -> list[Event]:
    """What was told since the last time, in order."""
    return [Event(*json.loads(message)) for message in board.collect()]
