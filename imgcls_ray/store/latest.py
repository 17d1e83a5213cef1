"""The newest row of every input, as one stream, and as files for other tools."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.errors import StorageError, UsageError
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.store.answers import newest_rows
from imgcls_ray.store.history import read_history
from imgcls_ray.store.merging import in_groups
from imgcls_ray.store.presence import Presence, pieces_of_history
from imgcls_ray.store.rows import SOURCE, merged_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imgcls_ray.store.label_store import LabelStore

FORMATS = ("parquet", "jsonl", "csv")
_PRESENT = pa.field("present", pa.bool_(), nullable=False)


def latest_rows(
    store: LabelStore, columns: Sequence[str] | None = None, *, only_present: bool = False
) -> Iterator[pa.Table]:
    """The newest row of every input, sorted by URI, in tables of some thousand rows.

    Args:
        store: which.
        columns: of the store that are wanted, among them those of ``KEY_COLUMNS``; by default all.
        only_present: leave out the inputs that the newest complete listing of their place did not find any more.

    Yields:
        These columns and ``present``.
    """
    history = read_history(store)
    presence = Presence(store, pieces_of_history(store, history))
    with merged_rows(store, history.all_pieces, columns) as rows:
        for table in rows:
            newest = newest_rows(table.drop_columns(SOURCE))
            is_present = pa.array(~presence.of(newest).is_absent)
            newest = newest.append_column(_PRESENT, is_present)
            if only_present:
                newest = newest.filter(is_present)
            if newest.num_rows:
                yield newest


def write_latest(store: LabelStore, path: Path, *, only_present: bool = False) -> int:
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
        num_rows = _write_rows(latest_rows(store, only_present=only_present), store, Path(partial), kind)
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
        _write_rows(latest_rows(store), store, path, kind)
        store.directory.replace_from(name, str(path))
    return f"{store.uri}/{name}"


def _write_rows(tables: Iterable[pa.Table], store: LabelStore, path: Path, kind: str) -> int:
    schema = store.schema.append(_PRESENT)
    if kind == "parquet":
        return _write_parquet(tables, schema, str(path))
    with path.open("w", encoding="utf-8", newline="") as file:
        return _write_jsonl(tables, file) if kind == "jsonl" else _write_csv(tables, schema, file)


def write_jsonl(store: LabelStore, file: TextIO, *, only_present: bool = False) -> int:
    """Write the newest rows as one JSON object a line."""
    return _write_jsonl(latest_rows(store, only_present=only_present), file)


def _write_jsonl(tables: Iterable[pa.Table], file: TextIO) -> int:
    num_rows = 0
    for table in tables:
        for row in table.to_pylist():
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        num_rows += table.num_rows
    return num_rows


def _write_parquet(tables: Iterable[pa.Table], schema: pa.Schema, path: str) -> int:
    num_rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in in_groups(tables):
            writer.write_table(table.cast(schema), row_group_size=table.num_rows)
            num_rows += table.num_rows
    return num_rows


def _write_csv(tables: Iterable[pa.Table], schema: pa.Schema, file: TextIO) -> int:
    """Lists are written as JSON in their cell, as in JSON ``true`` and ``false``."""
    writer = csv.writer(file)
    writer.writerow(schema.names)
    num_rows = 0
    for table in tables:
        for row in table.to_pylist():
            writer.writerow(
                json.dumps(value, ensure_ascii=False) if isinstance(value, list | bool) else value
                for value in row.values()
            )
        num_rows += table.num_rows
    return num_rows
