"""Names of boxes of pictures: ``photo.jpg#box=10,20,110,220``, and in shares of its width and height
``photo.jpg#box=shares:0.1,0.2,0.5,0.6``.

A box is an input with a URI of its own: that of its picture, ``#box=`` and left, upper, right and lower edge. The same
numbers are always written in the same way, so the same box has one name. Its picture may be a member of a packed file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

BOX_MARK = "#box="
"""Between a picture and its box."""
_SHARES = "shares:"
_NUMBER = r"-?(?:[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,3})?|inf|nan)"
_BOX = re.compile(rf"(.+){BOX_MARK}((?:{_SHARES})?{_NUMBER}(?:,{_NUMBER}){{3}})", re.DOTALL)
_LOCATOR = "box:"


class BoxOf(NamedTuple):
    """A box as its URI names it."""

    source: str
    """URI of the picture."""
    box: str
    """As ``images.crops`` reads it."""

    @property
    def uri(self) -> str:
        """The one name of this box, however its numbers were written."""
        return f"{self.source}{BOX_MARK}{self.box}"

    @property
    def locator(self) -> str:
        """Where it is in its picture, for plans."""
        return _LOCATOR + self.box


def split_box(uri: str) -> BoxOf | None:
    """The picture and the box that a URI names; ``None`` if it names no box.

    The name alone decides. A file whose own name looks like that of a box is told apart where it is read.

    >>> split_box("s3://b/x.jpg#box=0.0,0,2e1,10.50")
    BoxOf(source='s3://b/x.jpg', box='0,0,20,10.5')
    """
    found = _BOX.fullmatch(uri) if BOX_MARK in uri else None
    if found is None:
        return None
    box = found[2].removeprefix(_SHARES)
    return BoxOf(found[1], box_text([float(edge) for edge in box.split(",")], is_shares=box != found[2]))


def picture_of(uri: str) -> str:
    """The URI of the picture, if a URI names a box; otherwise itself."""
    return uri if (named := split_box(uri)) is None else named.source


def box_in(locator: str | None) -> str | None:
    """The box that a locator names; ``None`` if it is one of another kind."""
    return locator.removeprefix(_LOCATOR) if locator is not None and locator.startswith(_LOCATOR) else None


def box_text(corners: Sequence[float], *, is_shares: bool) -> str:
    """A box as its URI has it.

    >>> box_text([10.0, 20, 30.5, 1e2], is_shares=False)
    '10,20,30.5,100'
    """
    return (_SHARES if is_shares else "") + ",".join(map(_number, corners))


def _number(value: float) -> str:
    value = float(value)
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
