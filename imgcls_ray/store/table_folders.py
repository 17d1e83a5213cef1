"""Rows of a store as a folder of Parquet files that other tools read as one table, on any storage.

A file that is written last says that the folder is complete.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.inputs.tables import only_array
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.store.merging import in_groups
from imgcls_ray.store.table_files import write_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgcls_ray.storage import Directory
    from imgcls_ray.store.latest import LatestTable

_FILE_BYTES = 128 * 2**20
# Rows are put into the scratch files of their labels so many at a time.
_ROWS_IN_MEMORY, _BYTES_IN_MEMORY = 2**20, 64 * 2**20
_PACKED = pa.ipc.IpcWriteOptions(compression="zstd")
_NO_LABEL = "__HIVE_DEFAULT_PARTITION__"
# What Hive and Spark escape in the name of a folder; everything else, letters of all alphabets too, stays.
_ESCAPED = re.compile(r"[\x00-\x1f\"#%'*/:=?\\\x7f{\[\]^]")


def write_folder(rows: LatestTable, directory: Directory, kind: str) -> int:
    """Write a folder of a kind in ``FOLDER_KINDS`` into an empty place. Returns the number of rows."""
    with scratch_folder("export") as scratch:
        return _write_hive(rows, directory, scratch) if kind == "hive" else _write_dataset(rows, directory, scratch)


def _write_dataset(rows: LatestTable, directory: Directory, scratch: Path) -> int:
    """A dataset of Hugging Face: ``data/train-*.parquet``, and a ``README.md`` that names them."""
    num_rows = _put_files(rows.tables(), rows.schema, directory, scratch, "data/train-")
    card = {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}]}
    # JSON is YAML.
    text = f"---\n{json.dumps(card, indent=2)}\n---\n\nThe newest row of every input of a label store of imgcls-ray.\n"
    directory.replace("README.md", text.encode())
    return num_rows


def _put_files(tables: Iterator[pa.Table], schema: pa.Schema, directory: Directory, scratch: Path, name: str) -> int:
    path, total = scratch / "part.parquet", 0
    for number, num_rows in enumerate(write_parquet(tables, schema, path, most_bytes=_FILE_BYTES)):
        directory.replace_from(f"{name}{number:05d}.parquet", str(path))
        total += num_rows
    return total


def _write_hive(rows: LatestTable, directory: Directory, scratch: Path) -> int:
    """Parquet in ``label=NAME/``, as Hive and Spark partition tables, and ``_SUCCESS``."""
    labels: dict[str | None, Path] = {}
    schema = rows.schema.remove(rows.schema.get_field_index("label"))
    for group in in_groups(rows.tables(), most_rows=_ROWS_IN_MEMORY, most_bytes=_BYTES_IN_MEMORY):
        for label, of_label in _by_label(group):
            path = labels.setdefault(label, scratch / f"{len(labels)}.arrows")
            # One stream behind the other: so many labels would be too many open files.
            with path.open("ab") as file, pa.ipc.new_stream(file, schema, options=_PACKED) as writer:
                writer.write_table(of_label.drop_columns("label").cast(schema))
    num_rows = 0
    for label, path in labels.items():
        name = f"{_partition(label)}/part-"
        num_rows += _put_files(_streams_in(path), schema, directory, scratch, name)
        path.unlink()
    directory.replace("_SUCCESS", b"")
    return num_rows


def _by_label(group: pa.Table) -> Iterator[tuple[str | None, pa.Table]]:
    """The rows of each label, in their order."""
    labels = only_array(group.column("label")).dictionary_encode(null_encoding="encode")
    order = pc.sort_indices(labels.indices)
    numbers, group = labels.indices.take(order), group.take(order)
    counts = pc.value_counts(numbers)
    start = 0
    for number, count in zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True):
        yield labels.dictionary[number].as_py(), group.slice(start, count)
        start += count


def _streams_in(path: Path) -> Iterator[pa.Table]:
    size = path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < size:
            with pa.ipc.open_stream(file) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch])


def _partition(label: str | None) -> str:
    if label is None:
        return f"label={_NO_LABEL}"
    return "label=" + _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", label)
