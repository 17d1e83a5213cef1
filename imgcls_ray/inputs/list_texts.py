"""Rows of lists that are texts: plain paths, CSV and TSV, JSON and JSON lines, any of them also gzipped.

Lines are read one by one. Every refusal names the file and the line. Only a JSON document is in memory as a whole.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import re
import zlib
from contextlib import suppress
from operator import itemgetter
from typing import IO, TYPE_CHECKING

from imgcls_ray.errors import InputError
from imgcls_ray.inputs.boxes import box_columns, is_megadetector, megadetector_rows, read_box
from imgcls_ray.inputs.kept import ID_COLUMN, text_of
from imgcls_ray.inputs.list_rows import ListRow, need_column
from imgcls_ray.storage.encodings import HEAD_BYTES, as_utf8, other_encoding
from imgcls_ray.storage.files import absolute_path, path_from_uri, scheme_of
from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeAlias

    from imgcls_ray.inputs.kept import Kept

    Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
    Line: TypeAlias = "tuple[int, str]"
    Bytes: TypeAlias = IO[bytes] | gzip.GzipFile

_MAX_LINE_CHARS = 4 * 2**20
_MAX_JSON_CHARS = 256 * 2**20
_GZIP = b"\x1f\x8b"
_OTHER_FILES = (
    (b"PAR1", "a Parquet file; name it .parquet"),
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet; unpack it, or save it as CSV (UTF-8)"),
    (b"BZh", "compressed with bzip2; unpack it, or pack it with gzip"),
    (b"\xfd7zXZ", "compressed with xz; unpack it, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it, or pack it with gzip"),
)
_NULS_OF_BINARY = 0.1
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_PADDLEX_LINE = re.compile(r"(.*\S)[ \t]+[0-9]+(?:,[0-9]+)*[ \t]*")
_WITH_EXTENSION = re.compile(r".*\.[A-Za-z][A-Za-z0-9]{1,4}", re.DOTALL)
_LINES_LOOKED_AT = 1000
_FILES_LOOKED_AT = 32


def open_text(path: str, file: IO[bytes]) -> Bytes:
    """The bytes of a text, unpacked if they are gzipped, whatever the name says.

    Raises:
        InputError: it is no UTF-8 text; with its encoding or kind, and the way out.
    """
    is_packed = _head_of(file, len(_GZIP)) == _GZIP
    content: Bytes = gzip.GzipFile(fileobj=file) if is_packed else file
    head = _head_of(content, HEAD_BYTES)
    if is_packed:
        # Anew: one that has failed before its first byte is not wound back.
        file.seek(0)
        content = gzip.GzipFile(fileobj=file)
    if (what := other_encoding(path, head, is_packed=is_packed)) is not None:
        raise InputError(f"{path}: {what}")
    if (what := next((what for magic, what in _OTHER_FILES if head.startswith(magic)), None)) is not None:
        raise InputError(f"{path}: is {what}")
    if head.count(0) > 1 and b"\n" not in head:
        raise InputError(f"{path}: its names are separated by NUL (find -print0); write one in each line (find -print)")
    if head.count(0) >= _NULS_OF_BINARY * len(head) > 0:
        raise InputError(f"{path}: is not a text but binary data; a list is UTF-8 text, or Parquet")
    return content


def _head_of(file: Bytes, size: int) -> bytes:
    head = b""
    read = file.read1 if isinstance(file, gzip.GzipFile) else file.read
    # What cannot be unpacked is told where the lines before it are counted.
    with suppress(EOFError, zlib.error, gzip.BadGzipFile):
        while len(head) < size and (part := read(size - len(head))):
            head += part
    file.seek(0)
    return head


def _lines(
    path: str, file: Bytes, *, newline: str, any_bytes: bool = False, max_chars: int = _MAX_LINE_CHARS
) -> Iterator[Line]:
    """Lines with their numbers from 1.

    Args:
        path: of the list, for what is told.
        file: its content.
        newline: as ``open`` takes it.
        any_bytes: let bytes through that are not UTF-8, as surrogate escapes: a list made by a tool that knows no
            encodings may hold any file name.
        max_chars: a longer line is refused, because it would have to fit into memory.
    """
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
    number, most = 0, max_chars + 1
    try:
        while line := text.readline(most):
            number += 1
            if len(line) == most:
                raise InputError(f"{path}:{number}: is longer than {max_chars:,} characters; write one image in a line")
            if not (any_bytes or line.isascii()) and (found := _ESCAPED_BYTE.search(line)):
                byte, advice = ord(found[0]) - 0xDC00, as_utf8(path, "WINDOWS-1252", is_packed=path.endswith(".gz"))
                where = f"byte 0x{byte:02X} at column {found.start() + 1}"
                raise InputError(f"{path}:{number}: is not UTF-8 ({where}); {advice}")
            yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}:{number + 1}: cannot be unpacked, the file is cut off or damaged here: {error}"
        ) from error


def text_rows(path: str, file: Bytes, tell: Callable[[str], None]) -> Iterator[ListRow]:
    """A path or URI in each line; of a list of PaddleX, ``path id``, the path.

    Args:
        path: of the list.
        file: its content.
        tell: is told that it is a list of PaddleX.
    """
    lines = _lines(path, file, newline="\n", any_bytes=True)
    filled = ((n, line.rstrip("\r\n")) for n, line in lines if not line.isspace())
    head = list(itertools.islice(filled, _LINES_LOOKED_AT))
    everything = itertools.chain(head, filled)
    if not _is_of_paddlex(path, [line for _, line in head]):
        yield from (ListRow(n, line) for n, line in everything)
        return
    tell(f"{path}: is read as a list of PaddleX, `path id` in each line: the paths are inputs, the ids are ignored")
    for n, line in everything:
        match = _PADDLEX_LINE.fullmatch(line)
        yield ListRow(n, match[1] if match else line)


def _is_of_paddlex(path: str, lines: Sequence[str]) -> bool:
    """Whether the lines are ``path id``: the files decide, and where none can be found, the rule in every line.

    A list of paths may hold names with spaces, and names that end with a number.
    """
    matches = [_PADDLEX_LINE.fullmatch(line) for line in lines]
    with_id = [(match[0], match[1]) for match in matches if match]
    if 2 * len(with_id) <= len(lines):
        return False
    if not is_object(path):
        folder, looked_at = os.path.dirname(absolute_path(path)), with_id[:_FILES_LOOKED_AT]
        if any(_is_file(folder, whole) for whole, _ in looked_at):
            return False
        if any(_is_file(folder, name) for _, name in looked_at):
            return True
    return len(with_id) == len(lines) and all(_WITH_EXTENSION.fullmatch(name) for _, name in with_id)


def _is_file(folder: str, name: str) -> bool:
    if scheme_of(name) not in ("", "file"):
        return False
    try:
        path = os.path.join(folder, path_from_uri(name))
        return os.path.isfile(path) or ("\\" in name and os.path.isfile(path.replace("\\", "/")))
    except (InputError, ValueError):
        return False


def csv_rows(path: str, file: Bytes, uri_column: str, delimiters: str, kept: Kept | None = None) -> Iterator[ListRow]:
    """Rows of a table whose first line names its columns.

    Args:
        path: of the list.
        file: its content.
        uri_column: of the images.
        delimiters: between columns; the first of them that gives this column is the table's.
        kept: which other columns stay with the rows; all of their values are texts.
    """
    lines = itertools.dropwhile(lambda line: not line[1].strip(), _lines(path, file, newline=""))
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path}: is empty; the first line of a table names its columns, one of them {uri_column!r}")
    names_by = {mark: next(csv.reader([first[1]], delimiter=mark), []) for mark in delimiters}
    delimiter = next((mark for mark, names in names_by.items() if uri_column in names), delimiters[0])
    reader = csv.reader(map(itemgetter(1), itertools.chain([first], lines)), delimiter=delimiter, strict=True)
    skipped = first[0] - 1
    try:
        names = next(reader)
        need_column(f"{path}:{first[0]}", uri_column, names)
        width = len(names)
        # Behind the last column every row has an empty one: the place of columns that are not there.
        uri, size, etag = (names.index(name) if name in names else width for name in (uri_column, "size", "etag"))
        places: list[tuple[str, int]] = []
        corners: list[int] = []
        if kept is not None:
            where = f"{path}:{first[0]}"
            corners = [names.index(name) for name in box_columns(where, names, kept.boxes)]
            places = [(name, names.index(name)) for name in kept.few(where, kept.columns_of(where, names, uri_column))]
            for name, _ in places:
                kept.note(name, "string")
        input_id = next((place for name, place in places if name == ID_COLUMN), width)
        for values in reader:
            if any(values[width:]):
                raise InputError(
                    f"{path}:{reader.line_num + skipped}: has {len(values)} values for {width} columns "
                    f"({', '.join(names)[:200]}); put a value with {delimiter!r} in it into quotes"
                )
            values += [""] * (width + 1 - len(values))
            if values[uri]:
                number = reader.line_num + skipped
                others = text_of(f"{path}:{number}", {name: values[i] for name, i in places}) if places else None
                box = None
                if kept is not None and corners:
                    box = read_box(f"{path}:{number}", [values[i] for i in corners], kept)
                yield ListRow(number, values[uri], values[size], values[etag], None, others, values[input_id], box)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num + skipped}: is not a row of a table: {error}") from error


def jsonl_rows(path: str, file: Bytes, uri_column: str, kept: Kept | None = None) -> Iterator[ListRow]:
    """An object, or a text, in each line."""
    return _json_line_rows(path, _lines(path, file, newline="\n"), uri_column, kept)


def _json_line_rows(path: str, lines: Iterable[Line], uri_column: str, kept: Kept | None) -> Iterator[ListRow]:
    for n, line in lines:
        if line.strip():
            yield from _json_row(f"{path}:{n}", n, _parse(f"{path}:{n}", line), uri_column, kept)


def json_rows(path: str, file: Bytes, uri_column: str, kept: Kept | None = None) -> Iterator[ListRow]:
    """A list of objects or texts, or an object of such a list, or of columns; or lines, as ``jsonl_rows``."""
    # The first line may be all of the document.
    everything = _lines(path, file, newline="\n", max_chars=_MAX_JSON_CHARS)
    lines = itertools.dropwhile(lambda line: not line[1].strip(), everything)
    first, second = next(lines, None), next(lines, None)
    if first is None:
        raise InputError(f"{path}: is empty; a JSON list is a list of paths, or of objects with the key {uri_column!r}")
    if second is not None and _is_json(first[1]):
        yield from _json_line_rows(path, itertools.chain([first, second], lines), uri_column, kept)
        return
    texts, size = [first[1]], len(first[1])
    for _, line in itertools.chain([second] if second else [], lines):
        size += len(line)
        if size > _MAX_JSON_CHARS:
            raise InputError(f"{path}: is larger than {_MAX_JSON_CHARS:,} characters; write it as JSON lines (.jsonl)")
        texts.append(line)
    document = _parse(path, "".join(texts))
    if kept is not None and kept.boxes != "none" and isinstance(document, dict) and is_megadetector(document):
        yield from megadetector_rows(path, document, kept)
        return
    for number, value in enumerate(_values_of(path, document, uri_column), 1):
        yield from _json_row(f"{path}, entry {number}", number, value, uri_column, kept)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(where: str, text: str) -> Json:
    try:
        value: Json = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise InputError(f"{where}: is not JSON ({place}: {error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON that can be read: {error}") from error
    return value


def _values_of(path: str, document: Json, uri_column: str) -> Iterable[Json]:
    """What a JSON document lists, in one of the forms that programs write."""
    if isinstance(document, list):
        return document
    if isinstance(document, dict):
        uris = document.get(uri_column)
        if isinstance(uris, str):
            return [document]
        if isinstance(uris, list | dict):
            return _rows_of_columns(path, document, uri_column)
        lists = {key: value for key, value in document.items() if isinstance(value, list)}
        if isinstance(images := lists.get("images", next(iter(lists.values()), None)), list) and (
            "images" in lists or len(lists) == 1
        ):
            return images
        rows = list(document.values())
        if rows and all(isinstance(row, dict) and uri_column in row for row in rows):
            return rows
    raise InputError(
        f"{path}: holds no list of images; write a list of paths or of objects with the key {uri_column!r}, by itself "
        "or under the key 'images'"
    )


def _rows_of_columns(path: str, document: dict[str, Json], uri_column: str) -> Iterator[Json]:
    """Rows of ``{"uri": [..], "size": [..]}``, or of pandas' ``{"uri": {"0": .., "1": ..}}``."""
    columns: dict[str, list[Json]] = {}
    for name in dict.fromkeys([uri_column, "size", "etag", *document]):
        column = document.get(name)
        if not isinstance(column, list | dict):
            continue
        # What has another length tells something of the whole.
        if name in (uri_column, "size", "etag") or len(column) == len(columns[uri_column]):
            columns[name] = list(column.values()) if isinstance(column, dict) else column
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise InputError(f"{path}: its columns differ in length: {told}")
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _json_row(where: str, number: int, value: Json, uri_column: str, kept: Kept | None) -> Iterator[ListRow]:
    """The row of a value, or nothing if it names no image."""
    if isinstance(value, dict):
        need_column(where, uri_column, value, noun="key")
        uri, size, etag = value[uri_column], value.get("size"), value.get("etag")
    else:
        uri, size, etag = value, None, None
    if uri in (None, ""):
        return
    if not isinstance(uri, str):
        raise InputError(f"{where}: {uri_column!r} needs a text, is {json.dumps(uri)[:100]}")
    if isinstance(size, bool | list | dict) or isinstance(etag, bool | list | dict):
        name, other = ("size", size) if isinstance(size, bool | list | dict) else ("etag", etag)
        raise InputError(f"{where}: {name!r} is {json.dumps(other)[:100]}")
    others = input_id = box = None
    if kept is not None and isinstance(value, dict):
        if values := kept.values_of(where, value, uri_column):
            others, input_id = text_of(where, values), values.get(ID_COLUMN)
        if corners := box_columns(where, list(value), kept.boxes, noun="key"):
            box = read_box(where, [value[name] for name in corners], kept)
    yield ListRow(number, uri, size, etag, None, others, None if input_id is None else str(input_id), box)
