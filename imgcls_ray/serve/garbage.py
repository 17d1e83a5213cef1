"""Keep Python's garbage collector away from the objects of libraries.

Ray and torch are half a million objects. A full collection holds up every thread for a third of a second, and callers
can bring one about.
"""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def leave_objects_to_themselves() -> None:
    """Let the collector never again walk through what there is now; it still frees what nothing refers to."""
    gc.collect()
    gc.freeze()


@contextmanager
def leaving_torch_to_itself() -> Iterator[None]:
    """Call ``leave_objects_to_themselves`` after the block if it was the first to import torch, also if it failed.

    A model that the block loads is among these objects: what its parts refer to in circles stays. That is one model in
    the life of a process.
    """
    was_there = "torch" in sys.modules
    try:
        yield
    finally:
        if not was_there and "torch" in sys.modules:
            leave_objects_to_themselves()
