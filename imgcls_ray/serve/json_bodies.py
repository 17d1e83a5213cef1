"""Bodies in JSON, read so that no single step keeps the interpreter for long.

A parser is one call of C code: for 32 MB, which are mostly one image in base64, it would stop everybody for as long as
it takes. So long texts are cut out of a large body first, the small rest is parsed and checked, and the texts are
decoded piece by piece from where they stand.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import pybase64
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.serve.bodies import INLINE_BYTES, STEP_BYTES, find, in_thread
from imgcls_ray.serve.errors import ApiError, ErrorCode, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

M = TypeVar("M", bound=BaseModel)


MAX_JSON_VALUES = 20_000
_INLINE_VALUES = 2_000
# More than any text may have that is no image, and so has what stands in its place: a name that is too long stays so.
_MAX_TEXT_BYTES = 4200
# What is left without its images. Parsing that much takes some ten milliseconds, whatever is in it.
_MAX_REST_BYTES = 8 * 2**20
_DATA_URL = re.compile(r"data:[\w.+/-]{0,100}(?:;[\w=.-]{1,100}){0,4},")
_BLANKS = b" \t\r\n"
# A character of a text takes so many bytes at most: two escapes, which are one character together.
_MAX_CHAR_BYTES = 12
_URL = re.compile(r"https?://", re.IGNORECASE)
_FIRST_OF_TWO = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")
_DATA_KEY = re.compile(rb'"data"[ \t\r\n]{0,16}:[ \t\r\n]{0,16}\[')
_NOT_BASE64 = ImageError(ImageErrorCode.CORRUPT, "not base64")


@dataclass
class Cut:
    """What was cut out of a body, as it stands there, by what stands in its place now."""

    texts: dict[str, memoryview] = field(default_factory=dict)
    """Without their quotation marks."""
    numbers: dict[str, memoryview] = field(default_factory=dict)
    """Lists of them; a list with one text, which is the key here, stands in the place of each."""


async def read_json(kind: type[M], body: bytes, *, max_numbers: int = 0) -> tuple[M, Cut]:
    """Read and check a body in JSON; ``max_numbers`` of them may stand in a list under the key ``data``.

    One of more values than any request needs is not looked at: each takes microseconds to check, and an error its
    kilobyte. Commas and brackets within short strings count too.

    Raises:
        ApiError: with what is wrong, by the name of the first wrong key; never with values, which may be megabytes.
    """
    if len(body) <= INLINE_BYTES and _num_values(body) <= _INLINE_VALUES:
        return _validate(kind, body), Cut()
    return await in_thread(_read, kind, body, max_numbers)


def _read(kind: type[M], body: bytes, max_numbers: int) -> tuple[M, Cut]:
    cut = Cut()
    rest = body
    if len(body) > INLINE_BYTES:
        if _count(body, b'"') > 2 * MAX_JSON_VALUES:
            raise _too_many_values(MAX_JSON_VALUES)
        rest = _without_texts(body, cut)
    if max_numbers:
        rest = _without_numbers(rest, cut, max_numbers)
    if len(rest) > _MAX_REST_BYTES:
        raise refuse(ErrorCode.INVALID, f"the JSON has more than {_MAX_REST_BYTES:,} bytes besides its images")
    if _num_values(rest) > MAX_JSON_VALUES:
        raise _too_many_values(MAX_JSON_VALUES)
    return _validate(kind, rest, is_whole=rest is body), cut


def _num_values(body: bytes) -> int:
    return _count(body, b",") + _count(body, b"[") + _count(body, b"{")


def _count(body: bytes, mark: bytes, begin: int = 0, end: int | None = None) -> int:
    end = len(body) if end is None else end
    return sum(body.count(mark, start, min(end, start + STEP_BYTES)) for start in range(begin, end, STEP_BYTES))


def _too_many_values(limit: int) -> ApiError:
    return refuse(ErrorCode.INVALID, f"the JSON has more than {limit:,} values")


def _validate(kind: type[M], body: bytes, *, is_whole: bool = True) -> M:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_context=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])[:200]
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "json_invalid":
            # In a body that is not whole, lines and columns are others.
            message = message if is_whole else message.partition(" at line ")[0]
            raise refuse(ErrorCode.BAD_REQUEST, message[:200]) from error
        raise refuse(ErrorCode.INVALID, f"{where}: {message}"[:400] if where else message[:400]) from error


def _without_texts(body: bytes, cut: Cut) -> bytes:
    """A body with its long texts replaced. Keys stay: they may be told in an error.

    Raises:
        ApiError: one of them is none, as JSON has them.
    """
    parts: list[bytes | memoryview] = []
    view = memoryview(body)
    copied = 0
    start = body.find(b'"')
    while start >= 0 and (end := _end_of_string(body, start + 1)) >= 0:
        raw = view[start + 1 : end]
        if len(raw) > _MAX_TEXT_BYTES and not _is_key(body, end + 1) and (instead := _cut_text(raw, cut)):
            parts += [view[copied : start + 1], instead]
            copied = end
        start = body.find(b'"', end + 1)
    return b"".join([*parts, view[copied:]]) if parts else body


def _end_of_string(body: bytes, start: int) -> int:
    """Where the quotation mark is that ends the string which begins here; -1 if there is none."""
    begin = start
    while (end := body.find(b'"', start)) >= 0:
        if _num_backslashes(body, begin, end) % 2 == 0:
            return end
        start = end + 1
    return -1


def _num_backslashes(body: bytes, begin: int, end: int) -> int:
    """How many stand right before the end; perhaps millions."""
    run, step = 0, 64
    while begin < end:
        piece = body[max(begin, end - step) : end]
        kept = len(piece.rstrip(b"\\"))
        run += len(piece) - kept
        if kept:
            break
        end -= len(piece)
        step = STEP_BYTES
    return run


def _is_key(body: bytes, start: int) -> bool:
    """Whether a colon stands behind a string; perhaps behind millions of blanks."""
    step = 64
    while start < len(body):
        if left := body[start : start + step].lstrip(_BLANKS):
            return left[:1] == b":"
        start, step = start + step, STEP_BYTES
    return False


def _cut_text(raw: memoryview, cut: Cut) -> bytes | None:
    """What stands in the place of a text; None if it has few characters, written with many escapes.

    Raises:
        ApiError: it is none.
    """
    num_chars, begin = 0, ""
    try:
        for text in _plain_texts(raw):
            begin = begin or text[: _MAX_TEXT_BYTES + 1]
            num_chars += len(text)
    except ValueError as error:
        message = str(error).partition(" at line ")[0]
        raise refuse(ErrorCode.BAD_REQUEST, f"Invalid JSON: {message}"[:200]) from error
    if num_chars <= _MAX_TEXT_BYTES and len(raw) <= _MAX_CHAR_BYTES * _MAX_TEXT_BYTES:
        return None
    if _URL.match(begin):
        # An address that is longer than one may be, and no base64: its beginning is enough to say so.
        return json.dumps(begin)[1:-1].encode()
    return _cut_out(raw, cut.texts)


def _cut_out(raw: memoryview, pieces: dict[str, memoryview]) -> bytes:
    # No caller can know it, and so send it instead of a text.
    name = f"{uuid.uuid4().hex}-".ljust(_MAX_TEXT_BYTES, ".")
    pieces[name] = raw
    return name.encode()


def _without_numbers(body: bytes, cut: Cut, max_numbers: int) -> bytes:
    """A body with its first long list of numbers, in lists or not, replaced by a list with one text."""
    position = 0
    while (position := find(body, b'"data"', position)) >= 0:
        key = _DATA_KEY.match(body, position)
        position += 1
        if key is None:
            continue
        start = key.end() - 1
        ends = [end for mark in (b"}", b'"') if (end := body.find(mark, start)) >= 0]
        position = min(ends, default=len(body))
        end = body.rfind(b"]", start, position) + 1
        if end - start <= _MAX_TEXT_BYTES:
            continue
        if _count(body, b",", start, end) > max_numbers:
            raise _too_many_values(max_numbers)
        name = _cut_out(memoryview(body)[start:end], cut.numbers)
        return b"".join([body[:start], b'["', name, b'"]', body[end:]])
    return body


async def decode_texts(texts: Sequence[str], cut: Cut) -> list[bytes | ImageError]:
    """Images in base64, as they stand in a body."""
    if not cut.texts and sum(map(len, texts)) <= INLINE_BYTES:
        return [_decode_text(text) for text in texts]
    return await in_thread(lambda: [decode_base64(text, cut) for text in texts])


def decode_base64(text: str, cut: Cut) -> bytes | ImageError:
    """One image in base64, also as a ``data:`` address; line breaks are allowed, junk is not."""
    # To look up megabytes they would have to be hashed.
    is_cut = len(text) == _MAX_TEXT_BYTES and text in cut.texts
    return _decode_cut(cut.texts[text]) if is_cut else _decode_text(text)


def _decode_text(text: str) -> bytes | ImageError:
    if text[:5] == "data:" and (prefix := _DATA_URL.match(text)):
        text = text[prefix.end() :]
    if not text.isascii():
        return _NOT_BASE64
    try:
        # A tenth of the time that Python's own takes.
        return pybase64.b64decode(text, validate=True)
    except ValueError:  # perhaps for line breaks alone
        try:
            return pybase64.b64decode(text.encode().translate(None, _BLANKS), validate=True)
        except ValueError:
            return _NOT_BASE64


def _decode_cut(raw: memoryview) -> bytes | ImageError:
    decoded: list[bytes] = []
    left = b""
    is_padded = False
    try:
        for i, text in enumerate(_plain_texts(raw)):
            if i == 0 and text[:5] == "data:" and (prefix := _DATA_URL.match(text)):
                text = text[prefix.end() :]
            data = left + text.encode("ascii").translate(None, _BLANKS)
            whole, left = data[: len(data) // 4 * 4], data[len(data) // 4 * 4 :]
            if is_padded and data:
                return _NOT_BASE64
            is_padded = is_padded or whole.endswith(b"=")
            decoded.append(pybase64.b64decode(whole, validate=True))
    except ValueError:
        return _NOT_BASE64
    return _NOT_BASE64 if left else b"".join(decoded)


def _plain_texts(raw: memoryview) -> Iterator[str]:
    """The text of a string in JSON, piece by piece.

    Raises:
        ValueError: it is none.
    """
    start = 0
    while start < len(raw):
        piece = bytes(raw[start : start + STEP_BYTES])
        if start + len(piece) < len(raw):
            piece = _without_half(piece)
        yield from_json(b'"%b"' % piece)
        start += len(piece)


def _without_half(piece: bytes) -> bytes:
    """A piece of a text without what goes on behind it at its end: an escape, the first of two that are one character,
    or some bytes of a character."""
    found = piece.rfind(b"\\", -6)
    # An even number of backslashes is not the beginning of an escape.
    if found >= 0 and _num_backslashes(piece, 0, found + 1) % 2:
        piece = piece[:found]
    if _FIRST_OF_TWO.search(piece, len(piece) - 6) and _num_backslashes(piece, 0, len(piece) - 5) % 2:
        piece = piece[:-6]
    for num_bytes in range(1, 4):
        if piece[-num_bytes] >= 0xC0:
            return piece[:-num_bytes]
        if piece[-num_bytes] < 0x80:
            break
    return piece
