"""Multipart forms (RFC 7578): cut at their boundary by searches in C, in one piece of memory.

A parser that is fed as bytes come is Python for every chunk, and files on disk for every image; a body is bounded and
in memory anyway.
"""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from imgcls_ray.serve.bodies import copy_bytes, find
from imgcls_ray.serve.errors import ApiError, ErrorCode, refuse

_PARAMETER = re.compile(r';[ \t]*([\w!#$%&+^`|~.-]+\*?)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;]*)')
# The end of the form, the end of a line, or the end of a body that is not whole.
_DELIMITER_REST = re.compile(rb"--|[ \t]{0,100}\r\n|\r?\Z")
_WINDOWS_PATH = re.compile(r"[\s\S]:\\|\\\\")
_MAX_LOOKALIKES = 1000
_MAX_BOUNDARY_CHARS = 70  # RFC 2046
_MAX_HEAD_BYTES = 4096
_MAX_HEAD_LINES = 16
_MAX_PARAMETERS = 16
_MAX_FIELDS = 8
_MAX_FIELD_BYTES = 4096
# Parts that are images although no file name says so.
_IMAGE_NAMES = frozenset({"files", "file", "images", "image"})
# And those that are none whatever their kind is; some clients give every part one.
_FIELD_NAMES = frozenset({"top_k"})


class Part(NamedTuple):
    """One part of a form."""

    name: str
    content: bytes
    is_file: bool
    filename: str | None


def read_parts(body: bytes, content_type: str, *, max_files: int) -> list[Part]:
    """The parts of a form, in its order.

    Raises:
        ApiError: it is no whole form, or has more parts than a request may have.
    """
    boundary = dict(_parameters(content_type)).get("boundary", "")
    if not 0 < len(boundary) <= _MAX_BOUNDARY_CHARS:
        raise _unreadable(f"its Content-Type names no boundary of 1 to {_MAX_BOUNDARY_CHARS} characters")
    delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
    # What stands before the first delimiter and after the last is not looked at.
    is_first = body.startswith(delimiter[2:]) and _DELIMITER_REST.match(body, len(delimiter) - 2)
    position = -2 if is_first else _find(body, delimiter, 0)
    if position == -1:
        raise _unreadable("its boundary is nowhere in it")
    position += len(delimiter)
    parts: list[Part] = []
    num_files = 0
    while (rest := _DELIMITER_REST.match(body, position)) and rest[0] != b"--":
        if rest[0][-1:] != b"\n":
            raise _unreadable("its end is missing")
        end_of_head = body.find(b"\r\n\r\n", rest.end() - 2, rest.end() + _MAX_HEAD_BYTES)
        if end_of_head < 0:
            raise _unreadable(f"the head of a part is not whole, or larger than {_MAX_HEAD_BYTES} bytes")
        start = end_of_head + 4
        end = _find(body, delimiter, start)
        if end < 0:
            raise _unreadable("its end is missing")
        part = _part(body[rest.end() : end_of_head], body, start, end)
        num_files += part.is_file
        if num_files > max_files:
            raise refuse(ErrorCode.TOO_MANY_IMAGES, f"at most {max_files} images a request")
        parts.append(part)
        if len(parts) - num_files > _MAX_FIELDS:
            raise _unreadable(f"it has more than {_MAX_FIELDS} fields")
        position = end + len(delimiter)
    return parts


def _find(body: bytes, delimiter: bytes, start: int) -> int:
    """Where the next delimiter is. One that goes on in its line is content."""
    for _ in range(_MAX_LOOKALIKES):
        found = find(body, delimiter, start)
        if found < 0 or _DELIMITER_REST.match(body, found + len(delimiter)):
            return found
        start = found + 1
    raise _unreadable("its boundary is in the content of its parts again and again")


def _part(head: bytes, body: bytes, start: int, end: int) -> Part:
    headers = {}
    if head.count(b"\r\n") >= _MAX_HEAD_LINES:
        raise _unreadable(f"a part has more than {_MAX_HEAD_LINES} headers")
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        headers[key.strip().lower()] = value.strip()
    disposition = _text(headers.get(b"content-disposition", b""))
    parameters = dict(_parameters(disposition))
    name = parameters.get("name")
    if name is None or disposition.partition(";")[0].strip().lower() != "form-data":
        raise _unreadable('a part has no "Content-Disposition: form-data" with a name')
    kind = headers.get(b"content-type", b"").lower()
    is_file = (
        "filename" in parameters
        or "filename*" in parameters
        or (kind.startswith((b"image/", b"application/octet-stream")) and name not in _FIELD_NAMES)
        or name in _IMAGE_NAMES
    )
    if not is_file and end - start > _MAX_FIELD_BYTES:
        raise _unreadable(
            f"a field is larger than {_MAX_FIELD_BYTES} bytes; give an image a file name, or call it files"
        )
    filename = parameters.get("filename", "")
    if _WINDOWS_PATH.match(filename):
        # As old browsers send it; where the file was is nobody's business.
        filename = filename.rpartition("\\")[2]
    filename = _extended(parameters.get("filename*", "")) or filename
    return Part(name, copy_bytes(memoryview(body)[start:end]), is_file, filename or None)


def _parameters(header: str) -> list[tuple[str, str]]:
    """Of a header with a value and parameters, keys in lower case; of several with one key the last counts."""
    found = []
    for parameter in itertools.islice(_PARAMETER.finditer(header[:_MAX_HEAD_BYTES]), _MAX_PARAMETERS):
        key, value = parameter.groups()
        if value.startswith('"') and value.endswith('"') and len(value) > 1:
            # As browsers write it: only these two are escaped, and a path of Windows keeps its own backslashes.
            value = value[1:-1].replace("\\\\", "\\").replace('\\"', '"')
        else:
            value = value.strip()
        found.append((key.lower(), value))
    return found


def _extended(value: str) -> str | None:
    """A value as RFC 5987 writes it, ``UTF-8''na%C3%AFve.jpg``."""
    charset, quote, encoded = value.partition("'")
    _language, second, encoded = encoded.partition("'")
    if not (quote and second) or charset.lower() not in ("utf-8", "iso-8859-1"):
        return None
    try:
        return unquote_to_bytes(encoded).decode(charset)
    except UnicodeDecodeError:
        return None


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _unreadable(why: str) -> ApiError:
    return refuse(ErrorCode.BAD_REQUEST, f"not a readable multipart form: {why}")
