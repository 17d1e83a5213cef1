"""Wait for what a running service does in its own time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

NOT_YET = (httpx.TransportError, KeyError, ValueError)
"""What asking raises before there is an answer that can be read."""


def wait_for(
    condition: Callable[[], bool], seconds: float = 60, *, not_yet: tuple[type[Exception], ...] = NOT_YET
) -> None:
    deadline = time.monotonic() + seconds
    while not _holds(condition, not_yet):
        assert time.monotonic() < deadline, "did not come to hold"
        time.sleep(0.3)


def _holds(condition: Callable[[], bool], not_yet: tuple[type[Exception], ...]) -> bool:
    try:
        return condition()
    except not_yet:
        return False
