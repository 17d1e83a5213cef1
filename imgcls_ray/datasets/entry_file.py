"""A temporary file with the entries of a dataset, from which findings read the details of an image by its number."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.datasets.labelled import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROWS_PER_GROUP = 8192
_SCHEMA = pa.schema(
    [
        ("split", pa.dictionary(pa.int8(), pa.string())),
        ("file", pa.dictionary(pa.int8(), pa.string())),
        ("line", pa.int64()),
        ("path", pa.string()),
        ("uri", pa.string()),
        ("label", pa.int32()),
        ("source", pa.string()),
        ("locator", pa.string()),
    ]
)


class EntryFile:
    """Entries by their number, from 0: written once, then looked up."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[Entry] = []
        self._writer: pq.ParquetWriter | None = None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Entries can be appended in the block, and looked up after it."""
        with pq.ParquetWriter(self._path, _SCHEMA, compression="zstd") as self._writer:
            yield
            self._flush()

    def append(self, entry: Entry) -> None:
        """Write the next entry."""
        self._rows.append(entry)
        if len(self._rows) == _ROWS_PER_GROUP:
            self._flush()

    def lookup(self, numbers: np.ndarray) -> dict[int, Entry]:
        """Read entries back.

        Args:
            numbers: int64, ascending, each once.
        """
        found: dict[int, Entry] = {}
        file = pq.ParquetFile(self._path)
        for group in np.unique(numbers // _ROWS_PER_GROUP):
            wanted = numbers[numbers // _ROWS_PER_GROUP == group]
            rows = file.read_row_group(int(group)).take(wanted % _ROWS_PER_GROUP).to_pylist()
            found.update((int(number), Entry(**row)) for number, row in zip(wanted, rows, strict=True))
        return found

    def _flush(self) -> None:
        assert self._writer is not None
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), row_group_size=_ROWS_PER_GROUP)
            self._rows = []
