"""The lines of a list, one after the other, whatever its bytes are."""

from __future__ import annotations

import io
from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from imgcls_ray.storage.encodings import HEAD_BYTES, other_encoding

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_LINE_BYTES = 64 * 2**10
_BUFFER_BYTES = 2**20


class BadBytes(NamedTuple):
    """A line that is no text."""

    what: str
    """Its beginning, and what is wrong with it."""


class UnreadableError(Exception):
    """A list that cannot be read as a whole; its text says why."""


def list_lines(opened: BinaryIO, name: str) -> Iterator[tuple[int, str | BadBytes]]:
    """Lines by number from 1, blank ones left out.

    Raises:
        UnreadableError: it is UTF-16 or UTF-32, which would be wrong in every line.
    """
    with closing(opened):
        # Without a buffer, every byte of an object would be a request.
        file = io.BufferedReader(opened, _BUFFER_BYTES) if isinstance(opened, io.RawIOBase) else opened
        if (what := other_encoding(name, file.read(HEAD_BYTES))) is not None:
            raise UnreadableError(f"{what}, and call that {name}")
        file.seek(0)
        number = 0
        while line := file.readline(_MAX_LINE_BYTES):
            number += 1
            if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
                _skip_line(file)
                yield number, BadBytes(f"{line[:60]!r} and so on is longer than {_MAX_LINE_BYTES:,} bytes")
                continue
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            line = line.rstrip(b"\r\n")
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError:
                yield number, BadBytes(f"{line[:60]!r} is not UTF-8")
                continue
            if text.strip():
                yield number, text


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass


def read_back(line: str) -> list[str]:
    """What a reader finds in a file whose first line is this one."""
    try:
        return [text for _, text in list_lines(io.BytesIO(line.encode()), "") if isinstance(text, str)]
    except (UnicodeEncodeError, UnreadableError):
        return []
