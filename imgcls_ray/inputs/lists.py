"""Read lists of inputs: texts, tables and S3 Inventory reports, from files or objects, as a stream of files."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import re
import zlib
from datetime import datetime
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Required, TypedDict
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.errors import InputError
from imgcls_ray.inputs.sorting import batches_of
from imgcls_ray.storage import open_file
from imgcls_ray.storage.files import (
    FileInfo,
    absolute_path,
    host_of_file,
    opaque_etag,
    path_from_uri,
    scheme_of,
    stat_file,
)
from imgcls_ray.storage.s3 import is_s3, split_uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgcls_ray.storage.s3 import S3Options

_LIST_SUFFIXES = (".txt", ".csv", ".parquet")
_INVENTORY_NAME = "manifest.json"
_ROWS_PER_BATCH = 16_384
# The columns that an inventory's files have in each of its formats, by the names of its manifest and of its tables.
_INVENTORY_COLUMNS = {
    "bucket": "bucket",
    "key": "key",
    "size": "size",
    "etag": "e_tag",
    "lastmodifieddate": "last_modified_date",
    "islatest": "is_latest",
    "isdeletemarker": "is_delete_marker",
}
# Bytes that surrogateescape let through; in an address they are percent-encoded, as Parquet holds UTF-8 only.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


class _ListRow(TypedDict, total=False):
    """A row of a list; what a CSV gives is text."""

    uri: Required[str]
    size: int | str | None
    etag: str | None
    mtime: datetime | str | None


class _InventoryRow(TypedDict, total=False):
    """A row of an inventory; what a CSV gives of sizes is text."""

    bucket: str | None
    key: str | None
    size: int | str | None
    e_tag: str | None
    last_modified_date: datetime | None
    is_latest: bool | None
    is_delete_marker: bool | None


def is_list(source: str) -> bool:
    """Whether the name is that of a list of inputs, not of a single input."""
    return source.lower().endswith(_LIST_SUFFIXES) or is_inventory(source)


def is_inventory(source: str) -> bool:
    """Whether the name is that of an S3 Inventory, which has all objects of a bucket, also those that are no inputs."""
    return PurePosixPath(source).name == _INVENTORY_NAME


def read_list(source: str, s3: S3Options) -> Iterator[FileInfo]:
    """The entries of a list, in its order.

    Args:
        source: path or ``s3://`` URI of a ``.txt``, ``.csv`` or ``.parquet`` list with a ``uri`` column (or none, in a
            text), or of an S3 Inventory's ``manifest.json``. Relative entries count from the list's own folder.
        s3: how to reach object storage.

    Raises:
        InputError: the list, or one of the files that it names, cannot be read.
    """
    path = source if is_s3(source) else path_from_uri(source)
    kind = PurePosixPath(path).suffix.lower()
    try:
        if kind == ".json":
            yield from _read_inventory(path, s3)
            return
        with open_file(path, s3) as file:
            rows = {".txt": _text_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}[kind](path, file)
            folder = path.rpartition("/")[0] if is_s3(path) else os.path.dirname(absolute_path(path))
            for row in rows:
                yield _listed_file(row, folder)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, csv.Error, zlib.error, pa.ArrowException) as error:
        raise InputError(f"{path}: is not a readable {kind} list: {error}") from error


def _text_rows(_path: str, file: IO[bytes]) -> Iterator[_ListRow]:
    # surrogateescape: a list made by a tool that knows no encodings may hold any file name.
    for line in io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="\n"):
        if (uri := line.rstrip("\r\n")).strip():
            yield {"uri": uri}


def _csv_rows(path: str, file: IO[bytes]) -> Iterator[_ListRow]:
    reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
    _need_uri_column(path, reader.fieldnames or [])
    for row in reader:
        if row["uri"]:
            yield _ListRow(uri=row["uri"], size=row.get("size"), etag=row.get("etag"))


def _parquet_rows(path: str, file: IO[bytes]) -> Iterator[_ListRow]:
    with pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
        _need_uri_column(path, schema.names)
        kind = schema.field("uri").type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise InputError(f"{path}: the column 'uri' needs texts, has {kind}")
        columns = [name for name in ("uri", "size", "etag", "mtime") if name in schema.names]
        for batch in batches_of(parquet, batch_size=_ROWS_PER_BATCH, columns=columns):
            yield from (row for row in batch.to_pylist() if row["uri"])


def _need_uri_column(path: str, names: Iterable[str]) -> None:
    if "uri" not in names:
        raise InputError(f"{path}: needs a column 'uri', has {', '.join(names) or 'none'}")


def _listed_file(row: _ListRow, folder: str) -> FileInfo:
    """A list's entry; relative paths count from the list's own folder."""
    uri = str(row["uri"])
    if not scheme_of(uri) and is_s3(folder) and not uri.startswith("/"):
        uri = f"{folder}/{uri}"
    if scheme_of(uri) in ("", "file") and not host_of_file(uri):
        return stat_file(absolute_path(os.path.join(folder, path_from_uri(uri))))
    size, etag, mtime = row.get("size"), row.get("etag"), row.get("mtime")
    return FileInfo(
        _NOT_UTF8.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", uri),
        int(size) if size else None,
        opaque_etag(str(etag)) if etag else None,
        mtime if isinstance(mtime, datetime) else None,
    )


def _read_inventory(path: str, s3: S3Options) -> Iterator[FileInfo]:
    """Newest versions in an S3 Inventory (AWS, "Cataloging and analyzing your data with S3 Inventory")."""
    with open_file(path, s3) as file:
        manifest = json.load(file)
    try:
        bucket = manifest["destinationBucket"].rpartition(":")[2]
        kind, schema = manifest["fileFormat"], manifest["fileSchema"]
        keys = [str(part["key"]) for part in manifest["files"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is not the manifest of an S3 Inventory (it lacks {error})") from error
    if is_s3(path):
        bucket = split_uri(path)[0]  # it may have been copied elsewhere with its files
    readers = {"Parquet": _inventory_parquet, "CSV": _inventory_csv, "ORC": _inventory_orc}
    if kind not in readers:
        raise InputError(f"{path}: is of the format {kind!r}; known are {', '.join(readers)}")
    names = [name.strip() for name in schema.split(",")] if kind == "CSV" else []
    for key in keys:
        with open_file(f"s3://{bucket}/{key}", s3) as file:
            for row in readers[kind](file, names):
                if (info := _inventory_file(row)) is not None:
                    yield info


def _inventory_csv(file: IO[bytes], names: list[str]) -> Iterator[_InventoryRow]:
    columns = [_INVENTORY_COLUMNS.get(name.replace("_", "").lower(), name) for name in names]
    with contextlib.closing(gzip.GzipFile(fileobj=file)) as unpacked:
        for values in csv.reader(io.TextIOWrapper(unpacked, encoding="utf-8", newline="")):
            row = dict(zip(columns, values, strict=True))
            moment = row.get("last_modified_date")
            yield _InventoryRow(
                bucket=row.get("bucket"),
                # Keys are percent-encoded in this format only.
                key=unquote_plus(row["key"]) if "key" in row else None,
                size=row.get("size"),
                e_tag=row.get("e_tag"),
                last_modified_date=datetime.fromisoformat(moment) if moment else None,
                is_latest=row.get("is_latest", "true").lower() == "true",
                is_delete_marker=row.get("is_delete_marker", "false").lower() == "true",
            )


def _inventory_parquet(file: IO[bytes], _names: list[str]) -> Iterator[_InventoryRow]:
    with pq.ParquetFile(file) as parquet:
        columns = [name for name in _INVENTORY_COLUMNS.values() if name in parquet.schema_arrow.names]
        for batch in batches_of(parquet, batch_size=_ROWS_PER_BATCH, columns=columns):
            yield from batch.to_pylist()


def _inventory_orc(file: IO[bytes], _names: list[str]) -> Iterator[_InventoryRow]:
    from pyarrow import orc

    table = orc.ORCFile(file)
    columns = [name for name in _INVENTORY_COLUMNS.values() if name in table.schema.names]
    for stripe in range(table.nstripes):
        yield from table.read_stripe(stripe, columns=columns).to_pylist()


def _inventory_file(row: _InventoryRow) -> FileInfo | None:
    if lacking := [name for name in ("bucket", "key") if not row.get(name)]:
        raise ValueError(f"its reports have no {' and no '.join(lacking)}")
    uri = f"s3://{row['bucket']}/{row['key']}"
    if row.get("is_latest") is False or row.get("is_delete_marker") or uri.endswith("/"):
        return None
    size, etag, mtime = row.get("size"), row.get("e_tag"), row.get("last_modified_date")
    return FileInfo(
        uri,
        int(size) if size is not None and size != "" else None,
        opaque_etag(str(etag)) if etag else None,
        mtime if isinstance(mtime, datetime) else None,
    )
