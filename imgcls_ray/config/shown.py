"""Values and messages for people, short whatever their size: they may be anything that a file or a caller gave."""

from __future__ import annotations

import functools
import reprlib
from typing import Any

_MAX_SHOWN_CHARS = 200
_MAX_MESSAGE_CHARS = 1000


def shown(value: object) -> str:
    """A value for people: its beginning, or what it is."""
    return _shortener().repr(value)


def shown_text(text: str) -> str:
    """A key or path for people: as it is, or its beginning where it is longer than those are."""
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}…"


def clipped(message: str) -> str:
    """A message in one line of bounded length; its beginning says what is wrong."""
    message = " ".join(message.split())
    return message if len(message) <= _MAX_MESSAGE_CHARS else f"{message[: _MAX_MESSAGE_CHARS - 1]}…"


class _Shortener(reprlib.Repr):
    """Python's own way to show a part of a value; texts and numbers to a length that shows what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = _MAX_SHOWN_CHARS
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of more than 4,300 digits.
        return repr(x) if x.bit_length() <= 256 else f"an integer of {x.bit_length():,} bits"

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        # reprlib sorts the keys, and cuts after four.
        if level <= 0 or not x:
            return "{...}" if x else "{}"
        pairs = [f"{self.repr1(key, level - 1)}: {self.repr1(x[key], level - 1)}" for key in list(x)[: self.maxdict]]
        return "{" + ", ".join(pairs) + (", ..." if len(x) > self.maxdict else "") + "}"


@functools.cache
def _shortener() -> _Shortener:
    return _Shortener()
