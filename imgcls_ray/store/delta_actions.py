"""What a commit of the log says, as Delta's protocol has it: files that count, and the table with its columns."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_TEXT = 256
# What names no file of ours. Other tools delete what the log does not name, among it the parts of open runs: not within
# this time.
_PROPERTIES = {
    "delta.appendOnly": "true",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
    "delta.logRetentionDuration": "interval 3650 days",
}
_TYPES = {pa.int64(): "long", pa.int32(): "integer", pa.float32(): "float", pa.string(): "string"}


class LoggedFile(NamedTuple):
    """A file whose rows count: an ``add`` of Delta."""

    path: str
    """Its name in ``predictions/``."""
    size: int
    """Bytes."""
    num_rows: int
    first_uri: str | None
    """Not above the uri of any row; ``None``: not known."""
    last_uri: str | None
    """Not below the uri of any row; ``None``: not known."""
    time_ms: int
    """When it was added, milliseconds since 1970."""


def logged_file(add: Mapping[str, Any]) -> LoggedFile:
    stats = json.loads(add.get("stats") or "{}")
    return LoggedFile(
        add["path"],
        add["size"],
        stats.get("numRecords", 0),
        stats.get("minValues", {}).get("uri"),
        stats.get("maxValues", {}).get("uri"),
        add["modificationTime"],
    )


def add_action(file: LoggedFile, *, is_new: bool) -> dict[str, Any]:
    stats: dict[str, Any] = {"numRecords": file.num_rows}
    # Bounds of long texts are cut, as Delta allows: the lower one to a prefix, the upper one to a raised prefix.
    if file.first_uri is not None:
        stats["minValues"] = {"uri": file.first_uri[:_MAX_TEXT]}
    if file.last_uri is not None and (last := _upper_bound(file.last_uri)) is not None:
        stats["maxValues"] = {"uri": last}
    return {
        "path": file.path,
        "partitionValues": {},
        "size": file.size,
        "modificationTime": file.time_ms,
        "dataChange": is_new,
        "stats": json.dumps(stats, ensure_ascii=False),
    }


def _upper_bound(text: str) -> str | None:
    if len(text) <= _MAX_TEXT + 1:  # also one that was cut before
        return text
    highest = "\U0010ffff"
    return None if text[_MAX_TEXT] == highest else text[:_MAX_TEXT] + highest


def new_table(schema: pa.Schema, now_ms: int) -> dict[str, Any]:
    fields = [
        {"name": column.name, "type": _delta_type(column.type), "nullable": True, "metadata": {}} for column in schema
    ]
    return {
        "protocol": {"minReaderVersion": 1, "minWriterVersion": 2},
        "metaData": {
            "id": str(uuid.uuid4()),
            "name": "predictions",
            "format": {"provider": "parquet", "options": {}},
            "schemaString": json.dumps({"type": "struct", "fields": fields}),
            "partitionColumns": [],
            "configuration": dict(_PROPERTIES),
            "createdTime": now_ms,
        },
    }


def _delta_type(kind: pa.DataType) -> str | dict[str, Any]:
    if pa.types.is_list(kind):
        return {"type": "array", "elementType": _delta_type(kind.value_type), "containsNull": True}
    return _TYPES[kind]
