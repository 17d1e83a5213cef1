"""Read members of a packed file: neighbours in one request, each one bounded, each with its own result."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.packed.zips import unpack
from imgcls_ray.storage import FetchLimits, fetch_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Of two members with no more between them, one request costs less than two: side files, headers, padding.
_MAX_GAP_BYTES = 64 * 2**10
# What is asked for together has about eight megabytes, and should not be parted for its last member.
_MAX_SPAN_BYTES = 16 * 2**20


class Part(NamedTuple):
    """Consecutive bytes of a packed file that hold one member, and how to take it out of them."""

    offset: int
    length: int
    take: Callable[[bytes], bytes]
    """May raise ``ImageError``; it gets fewer bytes where the file ends before."""


class PlaceInGroup(NamedTuple):
    """Where an image is in a Parquet file, as its locator says."""

    file_size: int
    group: int
    row: int
    about: int
    """So many bytes an image has on average."""


class Span(NamedTuple):
    """Members that are read in one request."""

    offset: int
    length: int
    members: list[tuple[int, Part]]
    """With the place of each in what was asked for."""


def part_of(locator: str, max_bytes: int) -> Part | ImageError:
    """Where the member of a tar or zip file is; or why it cannot be read, found before anything is.

    Raises:
        ValueError: it is no locator.
    """
    kind, _, rest = locator.partition(":")
    if kind == "broken":
        code, _, detail = rest.partition(":")
        return ImageError(ImageErrorCode(code), detail)
    if kind == "tar":
        offset, length = map(int, rest.split(":"))
        return too_large(length, max_bytes) or Part(offset, length, lambda data: _whole(data, length))
    if kind == "zip":
        offset, span, packed_size, method, length, crc = map(int, rest.split(":"))
        # What is stored takes as many bytes as were said; what claims more than it may be is not read, either.
        return too_large(max(length, packed_size), max_bytes) or Part(
            offset, span, lambda data: unpack(data, packed_size, method, length, crc)
        )
    raise ValueError(f"{locator!r} is no locator of this version")


def place_in_group(locator: str | None) -> PlaceInGroup | None:
    """The row of a Parquet file that a locator names; ``None`` if it is one of another kind."""
    if locator is None or not locator.startswith("parquet:"):
        return None
    return PlaceInGroup(*map(int, locator.split(":")[1:]))


def spans_of(parts: Sequence[tuple[int, Part]]) -> Iterator[Span]:
    """Put neighbours together."""
    span: Span | None = None
    for place, part in sorted(parts, key=lambda item: item[1].offset):
        if span is not None:
            end, part_end = span.offset + span.length, part.offset + part.length
            is_near = part.offset - end <= _MAX_GAP_BYTES + part.length
            if is_near and part_end - span.offset <= _MAX_SPAN_BYTES:
                span = Span(span.offset, max(end, part_end) - span.offset, [*span.members, (place, part)])
                continue
            yield span
        span = Span(part.offset, part.length, [(place, part)])
    if span is not None:
        yield span


def read_span(source: str, etag: str | None, span: Span, limits: FetchLimits) -> list[bytes | ImageError]:
    """Read the members of a span, in its order."""
    try:
        data = fetch_range(source, span.offset, span.length, etag, limits)
    except ImageError as error:
        return [error.as_value() for _ in span.members]
    starts = (part.offset - span.offset for _, part in span.members)
    return [
        _take(part, data[start : start + part.length]) for start, (_, part) in zip(starts, span.members, strict=True)
    ]


def _take(part: Part, data: bytes) -> bytes | ImageError:
    try:
        return part.take(data)
    except ImageError as error:
        return error.as_value()


def too_large(length: int, max_bytes: int) -> ImageError | None:
    """What is said of a member over the limit."""
    if length <= max_bytes:
        return None
    return ImageError(ImageErrorCode.TOO_MANY_BYTES, f"{length:,} bytes, the limit is {max_bytes:,}")


def _whole(data: bytes, length: int) -> bytes:
    if len(data) < length:
        raise ImageError(ImageErrorCode.TRUNCATED, f"{len(data):,} of {length:,} bytes are in the file")
    return data
