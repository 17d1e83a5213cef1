"""Checkpoints of the commit log as Delta's readers want them: one Parquet row for each action."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Sequence

_TEXTS = pa.map_(pa.string(), pa.string())
_SCHEMA = pa.schema(
    {
        "protocol": pa.struct({"minReaderVersion": pa.int32(), "minWriterVersion": pa.int32()}),
        "metaData": pa.struct(
            {
                "id": pa.string(),
                "name": pa.string(),
                "format": pa.struct({"provider": pa.string(), "options": _TEXTS}),
                "schemaString": pa.string(),
                "partitionColumns": pa.list_(pa.string()),
                "configuration": _TEXTS,
                "createdTime": pa.int64(),
            }
        ),
        "add": pa.struct(
            {
                "path": pa.string(),
                "partitionValues": _TEXTS,
                "size": pa.int64(),
                "modificationTime": pa.int64(),
                "dataChange": pa.bool_(),
                "stats": pa.string(),
            }
        ),
        "remove": pa.struct({"path": pa.string(), "deletionTimestamp": pa.int64(), "dataChange": pa.bool_()}),
    }
)


def write_checkpoint(actions: Sequence[dict[str, Any]]) -> bytes:
    """The file of these actions."""
    buffer = io.BytesIO()
    rows = [{kind: _packed(action) for kind, action in row.items()} for row in actions]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def read_checkpoint(data: bytes) -> list[dict[str, Any]]:
    """The actions of a file.

    Raises:
        ValueError, OSError, pa.ArrowException: it is damaged.
    """
    table = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True).read()
    return [
        {kind: _unpacked(action) for kind, action in row.items() if action is not None} for row in table.to_pylist()
    ]


def _packed(action: dict[str, Any]) -> dict[str, Any]:
    """With maps as Arrow takes them."""
    return {
        key: (_packed(value) if key == "format" else list(value.items())) if isinstance(value, dict) else value
        for key, value in action.items()
    }


def _unpacked(action: dict[str, Any]) -> dict[str, Any]:
    maps = {"partitionValues", "configuration", "options"}
    return {
        key: dict(value) if key in maps else _unpacked(value) if isinstance(value, dict) else value
        for key, value in action.items()
    }
