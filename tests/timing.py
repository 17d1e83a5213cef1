"""Bounds on time that a busy machine does not break."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TRIES = 3


def assert_within(seconds: float, run: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> None:
    """Of three runs the fastest counts, and the first one that is within the bound is the last.

    Other processes take the machine, and the garbage of all tests before is collected at any time; what is slow by
    itself is slow three times.

    Args:
        run: may be called again.
        clock: ``time.thread_time`` for what computes in this thread alone.
    """
    taken: list[float] = []
    while not taken or (taken[-1] >= seconds and len(taken) < TRIES):
        start = clock()
        run()
        taken.append(clock() - start)
    assert min(taken) < seconds
