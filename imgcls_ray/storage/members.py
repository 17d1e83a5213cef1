"""Names of what is packed into a file: ``shard-000.tar#0001.jpg``, ``photos.zip#a/b.jpg``, ``part-0.parquet#row=17``.

A member is an input with a URI of its own: that of its file, ``#``, and its name. In a name, bytes that are not UTF-8,
NUL, and a ``%`` that might be taken for an escape are percent-encoded. Members of one name are told apart by a
``%#2``, ``%#3``, ... behind the name of the second, third, ... in the order of the file.

Where the bytes are, a locator says, which plans keep, so that nobody looks for a member again:

``tar:OFFSET:LENGTH``                        bytes of the file
``zip:OFFSET:SPAN:PACKED:METHOD:LENGTH:CRC`` local header with what follows; bytes before and after unpacking
``parquet:FILE:ROW_GROUP:ROW:ABOUT``         bytes of the file, row in the group, about so many bytes an image
``broken:CODE:DETAIL``                       there is no image: what is wrong, found when the file was listed
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIXES = (".tar", ".zip", ".parquet")
_PACKED = re.compile(rf"(?:{'|'.join(map(re.escape, SUFFIXES))})(?=#)", re.IGNORECASE)
_ESCAPED = re.compile(r"%(?=#|[0-9A-Fa-f]{2})|[\0\udc80-\udcff]")
_OCCURRENCE = re.compile(r"%#([1-9][0-9]{0,17})$")


class Member(NamedTuple):
    """A member as its URI names it."""

    source: str
    """URI of the file that holds it."""
    name: str
    """As its URI has it, without its occurrence."""
    occurrence: int = 1
    """Which of the members of this name, in the order of the file."""


def split_member(uri: str) -> Member | None:
    """The file and the member that a URI names; ``None`` if it names no member.

    The name alone decides. A file whose own name looks like that of a member is told apart where it is read.

    >>> split_member("s3://b/a#1/x.tar#y#z.jpg")
    Member(source='s3://b/a#1/x.tar', name='y#z.jpg', occurrence=1)
    """
    return next(possible_members(uri), None)


def possible_members(uri: str) -> Iterator[Member]:
    """What a URI may name, as also folders may be called ``x.tar#1``; the shortest name of a file first."""
    for found in _PACKED.finditer(uri):
        source, name = uri[: found.end()], uri[found.end() + 1 :]
        if (again := _OCCURRENCE.search(name)) is not None:
            yield Member(source, name[: again.start()], int(again[1]))
        elif name:
            yield Member(source, name)


def member_uri(source: str, name: str) -> str:
    """The URI of a member; bytes of its name that are not UTF-8 are surrogate escapes, as everywhere in Python."""
    return f"{source}#{_ESCAPED.sub(_escape, name)}"


def member_name(name: str) -> str:
    """The name in the file of a member that its URI calls so."""
    if "%" not in name:
        return name
    # Only what was escaped: a % before other characters is one.
    return re.sub(r"(?:%[0-9A-Fa-f]{2})+", lambda text: _unescape(text[0]), name)


def is_packed_file(uri: str) -> bool:
    """Whether the name is that of a file with members: a tar or zip file, or Parquet."""
    return uri.lower().endswith(SUFFIXES)


def _escape(found: re.Match[str]) -> str:
    character = ord(found[0])
    return f"%{character - 0xDC00 if character >= 0xDC80 else character:02X}"


def _unescape(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")
