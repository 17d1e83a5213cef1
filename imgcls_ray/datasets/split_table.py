"""Write the split of each image into its rows of a table; all other cells stay as they are."""

from __future__ import annotations

import csv
import io
from codecs import BOM_UTF8
from typing import TYPE_CHECKING

from imgcls_ray.datasets.tables import find_columns, open_csv

if TYPE_CHECKING:
    from collections.abc import Mapping

_SPLIT = "split"


def with_splits(dataset: str, data: bytes, splits: Mapping[int, str]) -> bytes:
    """The content of a table with these splits in its column ``split``, which is made if there is none.

    Args:
        dataset: its name: a .parquet file, or else CSV.
        data: its content, which can be read.
        splits: of each row, by the number that ``read_table`` gives it.
    """
    return (_parquet if dataset.lower().endswith(".parquet") else _csv)(dataset, data, splits)


def _csv(dataset: str, data: bytes, splits: Mapping[int, str]) -> bytes:
    delimiter, names, rows = open_csv(dataset, io.BytesIO(data))
    place = find_columns(dataset, names).get(_SPLIT, len(names))
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n" if b"\r\n" in data[:65536] else "\n")
    writer.writerow([*names[:place], names[place] if place < len(names) else _SPLIT, *names[place + 1 :]])
    for number, cells in rows:
        cells += [""] * (max(place, len(names) - 1) + 1 - len(cells))
        cells[place] = splits[number]
        writer.writerow(cells)
    return (BOM_UTF8 if data.startswith(BOM_UTF8) else b"") + text.getvalue().encode()


def _parquet(dataset: str, data: bytes, splits: Mapping[int, str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(data))
    table = file.read()
    column = pa.array([splits[number] for number in range(1, len(table) + 1)], pa.string())
    place = find_columns(dataset, table.schema.names).get(_SPLIT)
    if place is None:
        table = table.append_column(_SPLIT, column)
    else:
        table = table.set_column(place, table.schema.names[place], column)
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=max(file.metadata.row_group(0).num_rows, 1))
    return sink.getvalue()
