"""Read lists of inputs: texts, tables, JSON and S3 Inventory reports, from files or objects, as a stream of files."""

from __future__ import annotations

import csv
import os
import re
import zlib
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pyarrow as pa

from imgcls_ray.errors import InputError
from imgcls_ray.inputs.boxes import stat_input, with_boxes
from imgcls_ray.inputs.inventories import is_inventory, read_inventory
from imgcls_ray.inputs.kept import with_texts
from imgcls_ray.inputs.list_columns import blocks_of, files_of, rows_to_files
from imgcls_ray.inputs.list_ids import Ids
from imgcls_ray.inputs.list_rows import URI_COLUMN, ListRow, etag_of, size_of
from imgcls_ray.inputs.list_tables import parquet_columns
from imgcls_ray.inputs.list_texts import csv_rows, json_rows, jsonl_rows, open_text, text_rows
from imgcls_ray.inputs.tables import FileTables, tables_of
from imgcls_ray.storage import open_file
from imgcls_ray.storage.backslashes import Separators, read_as
from imgcls_ray.storage.crops import split_box
from imgcls_ray.storage.files import (
    FileInfo,
    absolute_path,
    host_of_file,
    opaque_etag,
    path_from_uri,
    scheme_of,
)
from imgcls_ray.storage.names import is_system_file
from imgcls_ray.storage.object_inputs import find_object
from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.inputs.kept import Kept
    from imgcls_ray.inputs.list_texts import Bytes
    from imgcls_ray.storage.options import StorageOptions

_TEXT_KINDS = {".txt": "txt", ".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_KINDS = {**_TEXT_KINDS, ".parquet": "parquet"}
# How people pack and save lists that cannot be read here, and what to do.
_OTHER_PACKINGS = (".bz2", ".xz", ".zst", ".zip", ".7z")
_OTHER_TABLES = {
    **dict.fromkeys((".xls", ".xlsx", ".ods"), "is a spreadsheet; save it as CSV (UTF-8)"),
    **dict.fromkeys(
        (".feather", ".arrow", ".avro", ".orc", ".pkl", ".db", ".sqlite"),
        "is a table of a kind that is not read as a list; save it as Parquet, CSV or JSON lines",
    ),
}
# Bytes that surrogateescape let through; in an address they are percent-encoded, as Parquet holds UTF-8 only.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def kind_of_list(source: str) -> str | None:
    """``csv`` of ``new.csv`` and ``new.csv.gz``; ``None`` for a name that is not one of a list."""
    name = PurePosixPath(source.lower())
    if name.suffix == ".gz":
        return _TEXT_KINDS.get(PurePosixPath(name.stem).suffix)
    return _KINDS.get(name.suffix)


def is_list(source: str) -> bool:
    """Whether the name is that of a list of inputs, not of a single input."""
    return kind_of_list(source) is not None


def refuse_other_lists(source: str) -> None:
    """Refuse a file that is a list of images by its name, but of a kind that is not read.

    Raises:
        InputError: with the way out.
    """
    name = PurePosixPath(source.lower())
    if is_system_file(name.name):
        raise InputError(f"{source}: is a file of the system, neither an image nor a list of images")
    if name.suffix in _OTHER_PACKINGS and kind_of_list(name.stem) is not None:
        raise InputError(f"{source}: is a list packed with {name.suffix[1:]}; unpack it, or pack it with gzip (.gz)")
    if (what := _OTHER_TABLES.get(name.suffix)) is not None:
        raise InputError(f"{source}: {what}")


def read_list(
    source: str,
    storage: StorageOptions,
    *,
    uri_column: str = URI_COLUMN,
    tell: Callable[[str], None] = lambda _: None,
    kept: Kept | None = None,
) -> FileTables:
    """The entries of a list, in its order.

    Args:
        source: path or URI of a list: ``.txt`` with a path in each line, ``.csv``, ``.tsv``, ``.json``,
            ``.jsonl`` or ``.ndjson`` (each of them also with ``.gz``), ``.parquet``, or an S3 Inventory's
            ``manifest.json``. Relative entries count from the list's own folder.
        storage: how to reach object storage.
        uri_column: the column, or key, of the images.
        tell: is told what the list was taken for where that may surprise.
        kept: which other columns stay with the files; by default none.

    Raises:
        InputError: the list, or one of the files that it names, cannot be read; with the line. While it is read.
    """
    path = source if is_object(source) else path_from_uri(source)
    return read_parts([path], _folder_of(path), storage, uri_column=uri_column, tell=tell, kept=kept)


def read_parts(
    parts: list[str],
    folder: str,
    storage: StorageOptions,
    *,
    uri_column: str = URI_COLUMN,
    tell: Callable[[str], None] = lambda _: None,
    kept: Kept | None = None,
) -> FileTables:
    """The entries of the files of one list; relative ones count from ``folder``.

    Raises:
        InputError: one of them cannot be read. While it is read.
    """
    return FileTables(lambda _: _read_parts(parts, folder, storage, uri_column, tell, kept))


def _read_parts(
    parts: list[str],
    folder: str,
    storage: StorageOptions,
    uri_column: str,
    tell: Callable[[str], None],
    kept: Kept | None,
) -> Iterator[pa.Table]:
    separators = Separators(is_object(folder), partial(_is_there, folder, storage))
    ids = Ids()
    for path in parts:
        kind = kind_of_list(path) or ""
        try:
            if is_inventory(path):
                yield from tables_of(read_inventory(path, storage))
                continue
            file_of = partial(_listed_file, path, kind, folder, separators, tell)
            with open_file(path, storage) as file:
                if kind == "parquet":
                    for columns, texts, boxes in parquet_columns(path, file, uri_column, kept, ids):
                        for table in files_of(columns, file_of):
                            table = table if boxes is None else with_boxes(table, boxes)
                            yield table if texts is None else with_texts(table, texts)
                    continue
                for rows in blocks_of(_rows(path, kind, open_text(path, file), uri_column, tell, kept)):
                    if any(row.input_id for row in rows):
                        numbers = [row.number for row in rows]
                        ids.add(pa.array([row.input_id for row in rows]), numbers, partial(_place, path, kind))
                    yield from rows_to_files(rows, file_of)
                if kept is not None and kind in ("json", "jsonl"):
                    kept.tell_missing(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (ValueError, OverflowError, EOFError, csv.Error, zlib.error, pa.ArrowException) as error:
            raise InputError(f"{path}: is not a readable .{kind} list: {error}") from error
    ids.check()
    if kept is not None and parts:
        kept.check_boxes(parts[0])


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0] if is_object(path) else os.path.dirname(absolute_path(path))


def _rows(
    path: str, kind: str, text: Bytes, uri_column: str, tell: Callable[[str], None], kept: Kept | None
) -> Iterator[ListRow]:
    if kind == "txt":
        return text_rows(path, text, tell)
    if kind == "jsonl":
        return jsonl_rows(path, text, uri_column, kept)
    if kind == "json":
        return json_rows(path, text, uri_column, kept)
    # A comma between columns is a semicolon where numbers have a comma.
    return csv_rows(path, text, uri_column, "\t,;" if kind == "tsv" else ",;\t", kept)


def _place(path: str, kind: str, number: int) -> str:
    if kind in ("parquet", "json"):
        return f"{path}, {'row' if kind == 'parquet' else 'entry'} {number:,}"
    return f"{path}:{number}"


def _is_there(folder: str, storage: StorageOptions, path: str) -> bool:
    uri = _in_folder(folder, path)
    return find_object(uri, storage) is not None if is_object(uri) else os.path.exists(os.path.join(folder, uri))


def _in_folder(folder: str, path: str) -> str:
    """The URI of a relative entry of a list in a bucket; every other entry as it is."""
    return f"{folder}/{path}" if is_object(folder) and not scheme_of(path) and not path.startswith("/") else path


def _listed_file(
    path: str, kind: str, folder: str, separators: Separators, tell: Callable[[str], None], row: ListRow
) -> FileInfo:
    """A list's entry, by the rules for one row; of what is ordinary, ``list_columns`` knows that they change nothing.

    Raises:
        InputError: a value of the row is none that its column may have; with the line.
    """
    if (uri := separators.read(row.uri)) != row.uri and separators.num_changed == 1:
        tell(f"{_place(path, kind, row.number)}: {read_as(row.uri, uri)}")
    try:
        return _file_of(row._replace(uri=uri), folder)
    except ValueError as error:
        raise InputError(f"{_place(path, kind, row.number)}: {error}") from error


def _file_of(row: ListRow, folder: str) -> FileInfo:
    uri = _in_folder(folder, row.uri)
    if scheme_of(uri) in ("", "file") and not host_of_file(uri):
        return stat_input(absolute_path(os.path.join(folder, path_from_uri(uri))))
    if (named := split_box(uri)) is not None:
        uri = named.uri
    if not uri.isascii():
        uri = _NOT_UTF8.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", uri)
    return FileInfo(uri, size_of(row), opaque_etag(etag) if (etag := etag_of(row)) else None, row.mtime)
