"""A row of a list of inputs, and what every kind of list needs of it."""

from __future__ import annotations

import math
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

URI_COLUMN = "uri"
"""The column of a list that has the images, if none is named."""
MAX_SIZE = 2**63 - 1
_NAMES_TOLD = 20
# What the column is called elsewhere, the likeliest first.
_USUAL_NAMES = (
    *("uri", "url", "path", "image_path", "image_uri", "image_url", "img_path", "img_url", "file_path", "filepath"),
    *("file_name", "filename", "file", "image", "img", "s3_uri", "location", "key", "name"),
)


class ListRow(NamedTuple):
    """A row of a list, as its file has it."""

    number: int
    """Line, row or entry, from 1."""
    uri: str
    size: str | float | Decimal | None = None
    etag: str | float | None = None
    mtime: datetime | None = None
    others: str | None = None
    """The values of the columns that are kept, as ``kept.text_of`` writes them."""
    input_id: str | None = None
    box: str | None = None
    """Of the image, as ``images.crops`` reads it; by default all of it."""


def need_column(where: str, column: str, names: Iterable[str], *, noun: str = "column") -> None:
    """Refuse a table without the column of the images.

    Raises:
        InputError: with the columns that it has, and how to name one of them.
    """
    found = [str(name) for name in names]
    if found.count(column) > 1:
        raise InputError(f"{where}: has the {noun} {column!r} twice; which one has the images?")
    if column in found:
        return
    told = ", ".join(repr(name)[1:-1] for name in found[:_NAMES_TOLD]) or "none"
    if (more := len(found) - _NAMES_TOLD) > 0:
        told += f" and {more} more"
    folded = {name.strip().lower(): name for name in reversed(found)}
    guess = next((folded[name] for name in (column.lower(), *_USUAL_NAMES) if name in folded), None)
    if guess is not None:
        example = f"'{guess}'" if " " in guess or guess != guess.strip() else guess
        advice = f"if the images are in {guess!r}, give --uri-column {example}"
    elif noun == "column" and found:
        advice = f"the first line of a table names its columns; --uri-column NAME takes another one than {column!r}"
    else:
        advice = "--uri-column NAME says which one has the images"
    raise InputError(f"{where}: has no {noun} {column!r}, it has {told}; {advice}")


def size_of(row: ListRow) -> int | None:
    """The number of bytes in a row; ``None`` if it tells none.

    Raises:
        ValueError: it is no number of bytes.
    """
    value = row.size
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = _number_of(value.strip())
    # pandas writes whole numbers beside missing ones as floats, and missing ones as NaN.
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return None
    try:
        size = int(value)
    except OverflowError:  # of an infinite one
        size = -1
    if size != value or not 0 <= size <= MAX_SIZE:
        raise _no_size(row)
    return size


def _number_of(text: str) -> float | None:
    if not text:
        return None
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return -1


def _no_size(row: ListRow) -> ValueError:
    return ValueError(
        f"the column 'size' is {str(row.size)[:60]!r}, needs a whole number of bytes; leave it empty if it is unknown"
    )


def etag_of(row: ListRow) -> str | None:
    """The version in a row; ``None`` if it tells none."""
    value = row.etag
    if isinstance(value, str):
        return value or None
    return None if value is None or math.isnan(value) else str(value)
