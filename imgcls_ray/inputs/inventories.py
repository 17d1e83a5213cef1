"""Read S3 Inventory reports as a stream of files (AWS, "Cataloging and analyzing your data with S3 Inventory")."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
from datetime import datetime
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, TypedDict
from urllib.parse import unquote_plus

import pyarrow.parquet as pq

from imgcls_ray.errors import InputError
from imgcls_ray.inputs.tables import batches_of
from imgcls_ray.storage import open_file
from imgcls_ray.storage.files import FileInfo, opaque_etag
from imgcls_ray.storage.schemes import is_object, split_uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.storage.options import StorageOptions

_INVENTORY_NAME = "manifest.json"
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


class _InventoryRow(TypedDict, total=False):
    """A row of an inventory; what a CSV gives of sizes is text."""

    bucket: str | None
    key: str | None
    size: int | str | None
    e_tag: str | None
    last_modified_date: datetime | None
    is_latest: bool | None
    is_delete_marker: bool | None


def is_inventory(source: str) -> bool:
    """Whether the name is that of an S3 Inventory, which has all objects of a bucket, also those that are no inputs."""
    return PurePosixPath(source).name == _INVENTORY_NAME


def read_inventory(path: str, storage: StorageOptions) -> Iterator[FileInfo]:
    """Newest versions in an S3 Inventory.

    Args:
        path: of its ``manifest.json``, or its URI.
        storage: how to reach object storage.

    Raises:
        InputError: it is no manifest, or of an unknown format.
        OSError, ValueError, EOFError, csv.Error, zlib.error, pa.ArrowException: one of its files is damaged.
    """
    with open_file(path, storage) as file:
        manifest = json.load(file)
    try:
        bucket = f"s3://{manifest['destinationBucket'].rpartition(':')[2]}"
        kind, schema = manifest["fileFormat"], manifest["fileSchema"]
        keys = [str(part["key"]) for part in manifest["files"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is not the manifest of an S3 Inventory (it lacks {error})") from error
    if is_object(path):
        bucket = split_uri(path)[0]  # it may have been copied elsewhere with its files
    readers = {"Parquet": _inventory_parquet, "CSV": _inventory_csv, "ORC": _inventory_orc}
    if kind not in readers:
        raise InputError(f"{path}: is of the format {kind!r}; known are {', '.join(readers)}")
    names = [name.strip() for name in schema.split(",")] if kind == "CSV" else []
    for key in keys:
        with open_file(f"{bucket}/{key}", storage) as file:
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
        for batch in batches_of(parquet, columns=columns):
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
