"""The newest row of every input, as one stream, and as files for other tools."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import pyarrow.parquet as pq

from imgcls_ray.errors import StorageError, UsageError
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.store.answers import newest_rows
from imgcls_ray.store.history import read_history
from imgcls_ray.store.merging import in_groups
from imgcls_ray.store.rows import SOURCE, merged_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from imgcls_ray.store.label_store import LabelStore

FORMATS = ("parquet", "jsonl", "csv")


def latest_rows(store: LabelStore) -> Iterator[pa.Table]:
    """The newest row of every input, sorted by URI, in tables of some thousand rows."""
    with merged_rows(store, read_history(store).all_pieces) as rows:
        for table in rows:
            if (newest := newest_rows(table.drop_columns(SOURCE))).num_rows:
                yield newest


def write_latest(store: LabelStore, path: Path) -> int:
    """Write the newest rows to a ``.parquet``, ``.jsonl`` or ``.csv`` file, whole or not at all. Returns their number.

    Raises:
        UsageError: another suffix, or a path where no file can be written.
        StorageError: reading the store or writing the file failed; an older file stays.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise UsageError(f"{path}: the newest rows are written as .parquet, .jsonl or .csv")
    if path.is_dir():
        raise UsageError(f"{path}: cannot be written: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
    os.close(descriptor)
    try:
        num_rows = _write_rows(store, Path(partial), kind)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(f"{path}: was not written: {error}") from error
    finally:
        Path(partial).unlink(missing_ok=True)
    return num_rows


def export_latest(store: LabelStore, kind: str) -> str:
    """Write ``exports/latest.KIND`` inside the store; returns where."""
    name = f"exports/latest.{kind}"
    with scratch_folder("export") as folder:
        path = folder / f"latest.{kind}"
        _write_rows(store, path, kind)
        store.directory.replace_from(name, str(path))
    return f"{store.uri}/{name}"


def _write_rows(store: LabelStore, path: Path, kind: str) -> int:
    if kind == "parquet":
        return _write_parquet(store, str(path))
    with path.open("w", encoding="utf-8", newline="") as file:
        return (write_jsonl if kind == "jsonl" else _write_csv)(store, file)


def write_jsonl(store: LabelStore, file: TextIO) -> int:
    """Write the newest rows as one JSON object a line."""
    num_rows = 0
    for table in latest_rows(store):
        for row in table.to_pylist():
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        num_rows += table.num_rows
    return num_rows


def _write_parquet(store: LabelStore, path: str) -> int:
    num_rows = 0
    with pq.ParquetWriter(path, store.schema, compression="zstd") as writer:
        for table in in_groups(latest_rows(store)):
            writer.write_table(table.cast(store.schema), row_group_size=table.num_rows)
            num_rows += table.num_rows
    return num_rows


def _write_csv(store: LabelStore, file: TextIO) -> int:
    """Lists are written as JSON in their cell."""
    writer = csv.writer(file)
    writer.writerow(store.schema.names)
    num_rows = 0
    for table in latest_rows(store):
        for row in table.to_pylist():
            writer.writerow(
                json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value for value in row.values()
            )
        num_rows += table.num_rows
    return num_rows
