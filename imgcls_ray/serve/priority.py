"""Who goes first on a core: the event loop, which answers everybody, before all that works for one caller."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

NICENESS = 5
"""Of what decodes and classifies: in overload the event loop must still turn away those there is no room for."""


def give_way() -> None:
    """Let the event loop go before this thread."""
    with suppress(OSError, AttributeError):  # where threads have no priority of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
