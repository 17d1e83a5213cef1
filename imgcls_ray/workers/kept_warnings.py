"""Bring the warnings of a process whose log nobody sees to the one that has a terminal."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def kept_warnings() -> Iterator[list[str]]:
    """The warnings that are logged meanwhile, for a process whose log nobody sees."""
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    ours = logging.getLogger(__name__.partition(".")[0])
    ours.addHandler(handler)
    try:
        yield warnings
    finally:
        ours.removeHandler(handler)
