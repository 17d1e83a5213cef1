"""Rows of a store as one file of a kind that other tools read, some thousand rows in memory."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.store.merging import in_groups
from imgcls_ray.store.schema import TRUST_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from imgcls_ray.store.latest import LatestTable


def write_file(rows: LatestTable, path: Path, kind: str) -> int:
    """Write a local file of a kind in ``FILE_KINDS``. Returns the number of rows."""
    if kind == "parquet":
        return sum(write_parquet(rows.tables(), rows.schema, path))
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == "jsonl":
            return write_jsonl(rows.tables(), file)
        return write_csv(rows, file) if kind == "csv" else write_coco(rows.tables(), file, path.with_suffix(".rest"))


def write_jsonl(tables: Iterable[pa.Table], file: TextIO) -> int:
    """One JSON object a line."""
    num_rows = 0
    for row in _rows(tables):
        file.write(_json_of(row) + "\n")
        num_rows += 1
    return num_rows


def _rows(tables: Iterable[pa.Table]) -> Iterator[dict[str, Any]]:
    for table in tables:
        yield from table.to_pylist()


def _json_of(row: dict[str, Any]) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, default=_as_json, allow_nan=False)
    except ValueError:  # JSON knows no NaN and no infinity, and many of its readers refuse the whole file
        return json.dumps(_finite(row), ensure_ascii=False, default=_as_json, allow_nan=False)


def _finite(value: Any) -> Any:
    """The same with nulls in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_json(value: object) -> str:
    """Times, which JSON does not know."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def write_parquet(tables: Iterable[pa.Table], schema: pa.Schema, path: Path, *, most_bytes: int = 0) -> Iterator[int]:
    """Write files under one name, each taken away by the caller before the next one begins; one of no rows at least.

    Args:
        tables: of this schema.
        schema: of the files.
        path: of each.
        most_bytes: about which a file has at most; 0: everything goes into one file.

    Yields:
        Numbers of rows.
    """
    groups = in_groups(tables)
    group: pa.Table | None = next(groups, schema.empty_table())
    while group is not None:
        num_rows = 0
        with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
            while group is not None:
                writer.write_table(group.cast(schema), row_group_size=max(group.num_rows, 1))
                num_rows += group.num_rows
                group = next(groups, None)
                if most_bytes and os.path.getsize(path) >= most_bytes:
                    break
        yield num_rows


def write_csv(rows: LatestTable, file: TextIO) -> int:
    """Lists are written as JSON in their cell, as in JSON ``true`` and ``false``; structures in columns ``a.b``."""
    writer = csv.writer(file)
    fields = list(_flat(rows.schema))
    writer.writerow([name if below is None else f"{name}.{below}" for name, below in fields])
    num_rows = 0
    for row in _rows(rows.tables()):
        writer.writerow([_cell(row[name] if below is None else (row[name] or {}).get(below)) for name, below in fields])
        num_rows += 1
    return num_rows


def _flat(schema: pa.Schema) -> Iterator[tuple[str, str | None]]:
    """Columns, and of those that are structures the fields."""
    for column in schema:
        if pa.types.is_struct(column.type):
            yield from ((column.name, field.name) for field in column.type)
        else:
            yield column.name, None


def _cell(value: object) -> object:
    if isinstance(value, list | bool):
        return json.dumps(value, ensure_ascii=False)
    return value.isoformat() if isinstance(value, datetime) else value


def write_coco(tables: Iterable[pa.Table], file: TextIO, rest: Path) -> int:
    """The JSON of COCO: ``images``, one for each row; ``annotations``, one for each row with a label, whose box is the
    whole picture; and ``categories``, those of these labels.

    Args:
        tables: of the rows.
        file: receives it.
        rest: path for the annotations, which wait on disk for the last image.
    """
    categories: dict[int, str] = {}
    number = num_labelled = 0
    with rest.open("w+", encoding="utf-8") as annotations:
        file.write('{"images": [')
        for number, row in enumerate(_rows(tables), 1):
            if row["error"] is None:
                categories[row["label_id"]] = row["label"]
                num_labelled += 1
                _write_item(annotations, _annotation(number, row), is_first=num_labelled == 1)
            about = {key: value for key, value in row.items() if key not in _OF_ANNOTATION and value is not None}
            _write_item(file, {"id": number, "file_name": row["uri"], **about}, is_first=number == 1)
        file.write('\n], "annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, file)
    named = [{"id": key, "name": name} for key, name in sorted(categories.items())]
    file.write(f'\n], "categories": {json.dumps(named, ensure_ascii=False)}}}\n')
    return number


_TRUST = tuple(field.name for field in TRUST_FIELDS)
_OF_ANNOTATION = frozenset(
    {"image_id", "status", "label", "label_id", "labels", "score", "scores", *_TRUST, "embedding", "logits"}
)


def _annotation(number: int, row: dict[str, Any]) -> dict[str, Any]:
    width, height = row["width"], row["height"]
    # Readers of COCO need a box and an area.
    return {
        "id": number,
        "image_id": number,
        "category_id": row["label_id"],
        "score": row["score"],
        **{key: row[key] for key in _TRUST if row.get(key) is not None},
        "bbox": [0, 0, width, height],
        "area": width * height,
        "iscrowd": 0,
    }


def _write_item(file: TextIO, item: dict[str, Any], *, is_first: bool) -> None:
    file.write(("\n" if is_first else ",\n") + _json_of(item))
