"""Rows of lists that are Parquet: one file, or a folder that holds nothing else (Spark, Daft and Ray write such)."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.errors import InputError
from imgcls_ray.inputs.boxes import box_columns, read_box
from imgcls_ray.inputs.kept import ID_COLUMN, kept_type, texts_of
from imgcls_ray.inputs.list_columns import ListColumns, block_sizes, has_text, is_text
from imgcls_ray.inputs.list_rows import need_column
from imgcls_ray.inputs.tables import batches_of
from imgcls_ray.storage import open_file
from imgcls_ray.storage.files import path_from_uri
from imgcls_ray.storage.object_client import client_of
from imgcls_ray.storage.object_failures import ObjectError
from imgcls_ray.storage.object_listing import list_objects
from imgcls_ray.storage.schemes import is_object, split_uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.inputs.kept import Kept
    from imgcls_ray.inputs.list_ids import Ids
    from imgcls_ray.storage.options import StorageOptions

_SUFFIX = ".parquet"
_NAMES_TOLD = 20
# In the order of a ``ListRow``.
_OTHER_COLUMNS = ("size", "etag", "mtime")


def parquet_columns(
    path: str, file: IO[bytes], uri_column: str, kept: Kept | None = None, ids: Ids | None = None
) -> Iterator[tuple[ListColumns, pa.Array | None, pa.Array | None]]:
    """Rows of a table, some thousand at a time, what is kept of them, and their boxes; without an image, none."""
    number = 0
    sizes = block_sizes()
    with pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
        need_column(path, uri_column, schema.names)
        _need_texts(path, uri_column, schema.field(uri_column).type)
        others = [name for name in _OTHER_COLUMNS if _has(path, schema, name) and name != uri_column]
        columns = _kept_columns(path, schema, uri_column, kept) if kept is not None else []
        corners = box_columns(path, schema.names, kept.boxes) if kept is not None else ()
        wanted = list(dict.fromkeys([uri_column, *others, *columns, *corners]))
        for batch in map(_without_views, batches_of(parquet, columns=wanted)):
            while batch.num_rows:
                rows = batch.slice(0, next(sizes))
                batch = batch.slice(rows.num_rows)
                numbers = np.arange(number + 1, number + 1 + rows.num_rows)
                number += rows.num_rows
                has_image = has_text(rows.column(uri_column))
                if not has_image.all():
                    numbers, rows = numbers[has_image], rows.filter(pa.array(has_image))
                if rows.num_rows:
                    found = [rows.column(name) if name in others else None for name in _OTHER_COLUMNS]
                    if ids is not None and ID_COLUMN in columns:
                        ids.add(rows.column(ID_COLUMN), numbers, lambda row: f"{path}, row {row:,}")
                    texts = texts_of({name: rows.column(name) for name in columns}, path, numbers) if columns else None
                    boxes = (
                        _boxes_of(path, rows.select(list(corners)), numbers, kept)
                        if kept is not None and corners
                        else None
                    )
                    yield ListColumns(numbers, rows.column(uri_column), *found), texts, boxes


def _boxes_of(path: str, rows: pa.RecordBatch, numbers: np.ndarray, kept: Kept) -> pa.Array:
    corners = zip(*(column.to_pylist() for column in rows.columns), strict=True)
    read = [read_box(f"{path}, row {n:,}", box, kept) for n, box in zip(numbers.tolist(), corners, strict=True)]
    return pa.array(read, pa.string())


def _kept_columns(path: str, schema: pa.Schema, uri_column: str, kept: Kept) -> list[str]:
    """The columns that are kept; their types are noted.

    Raises:
        InputError: one that was asked for cannot be.
    """
    names = kept.columns_of(path, schema.names, uri_column)
    kinds = {name: kept_type(schema.field(name).type) for name in names}
    if nested := [name for name, kind in kinds.items() if kind is None]:
        told = ", ".join(f"{name!r} ({str(schema.field(name).type)[:60]})" for name in nested[:_NAMES_TOLD])
        if kept.wanted is not None:
            raise InputError(f"{path}: --keep-columns takes columns of texts, numbers and times, not {told}")
        kept.tell("nested", f"{path}: columns of lists, structures or bytes are not kept: {told}")
    names = kept.few(path, [name for name in names if kinds[name] is not None])
    if len(names) < 2:
        return []
    for name in names:
        kept.note(name, kinds[name] or "")
    return names


def _without_views(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same with ordinary texts, because Arrow can do little with views of them."""
    columns = (
        pa.array(column.to_pylist(), pa.string()) if pa.types.is_string_view(column.type) else column
        for column in batch.columns
    )
    return pa.RecordBatch.from_arrays(list(columns), batch.schema.names)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values, where a dictionary holds them."""
    return _plain(kind.value_type) if pa.types.is_dictionary(kind) else kind


def _need_texts(path: str, column: str, kind: pa.DataType) -> None:
    if not is_text(_plain(kind)):
        raise InputError(
            f"{path}: the column {column!r} needs texts, has {kind}; --uri-column NAME takes another column"
        )


def _has(path: str, schema: pa.Schema, name: str) -> bool:
    """Whether a table has one of the other columns.

    Raises:
        InputError: of a type that it cannot have.
    """
    if name not in schema.names:
        return False
    kind = _plain(schema.field(name).type)
    if name == "mtime":
        return bool(pa.types.is_timestamp(kind))
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (is_number or is_text(kind) or pa.types.is_null(kind)):
        needed = "whole numbers" if name == "size" else "texts"
        raise InputError(f"{path}: the column {name!r} needs {needed}, has {kind}; rename it if it is something else")
    return True


def parquet_parts(source: str, storage: StorageOptions) -> list[str]:
    """The files of a folder or prefix that holds Parquet and nothing else, sorted; none if it holds other files, too.

    Folders in it are read if they are partitions, ``key=value``. Markers of the programs that write such folders
    (``_SUCCESS``, ``.part-0.parquet.crc``) do not count.

    Args:
        source: an existing folder, or a URI of object storage.
        storage: how to reach object storage.

    Raises:
        StorageError: the prefix cannot be listed.
    """
    parts: list[str] = []
    for path in _objects(source, storage) if is_object(source) else _files(path_from_uri(source)):
        if path is None:
            return []
        parts.append(path)
    return sorted(parts)


def is_of_parts(parts: list[str], source: str, uri_column: str, storage: StorageOptions) -> bool:
    """Whether parts are those of a list.

    Raises:
        InputError: they have no column of images; with the columns that they have.
    """
    if not parts:
        return False
    try:
        with open_file(parts[0], storage) as file, pq.ParquetFile(file) as parquet:
            need_column(f"{source}: holds Parquet files only, and {parts[0]}", uri_column, parquet.schema_arrow.names)
    except pa.ArrowException as error:
        raise InputError(f"{parts[0]}: is not a readable .parquet list: {error}") from error
    return True


def _is_part(names: list[str]) -> bool | None:
    """Whether a path below the folder is one of its parts; ``None`` for a marker."""
    if any(name.startswith((".", "_")) for name in names):
        return None
    return names[-1].lower().endswith(_SUFFIX) and all(name.find("=") > 0 for name in names[:-1])


def _files(folder: str, above: tuple[str, ...] = ()) -> Iterator[str | None]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder = entry.is_dir()
                is_part = _is_part([*above, entry.name, *(["x.parquet"] if is_folder else [])])
                if is_part is None:
                    continue
                if is_part and is_folder:
                    yield from _files(entry.path, (*above, entry.name))
                else:
                    yield entry.path if is_part else None
    except OSError:  # what it holds, nobody can tell: the listing says so
        yield None


def _objects(uri: str, storage: StorageOptions) -> Iterator[str | None]:
    bucket, key = split_uri(uri)
    prefix = key if not key or key.endswith("/") else f"{key}/"
    client = client_of(uri, storage)
    try:
        for info in list_objects(client, bucket, prefix):
            is_part = _is_part(info.uri.removeprefix(f"{bucket}/{prefix}").split("/"))
            if is_part is not None:
                yield info.uri if is_part else None
    except ObjectError as error:
        raise client.storage_error(f"{uri}: cannot be listed", error) from error
