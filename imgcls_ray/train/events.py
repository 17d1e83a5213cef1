"""What the command is told while workers train: how far they are, and of those that are lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from imgcls_ray.workers.board import Board


class Event(NamedTuple):
    """One message."""

    kind: str
    """``begin``, ``step``, ``epoch`` or ``lost``."""
    values: dict[str, Any]


def send(board: Board, kind: str, values: dict[str, Any]) -> None:
    """Tell the command something."""
    board.post(json.dumps([kind, values]).encode())


def receive(board: Board) -> list[Event]:
    """What was told since the last time, in order."""
    return [Event(*json.loads(message)) for message in board.collect()]
