"""Write the rows of sorted pieces into few large files, in order, with what readers of single rows need."""

from __future__ import annotations

import json
import os
import time
import uuid
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.store.delta_actions import LoggedFile
from imgcls_ray.store.rows import SOURCE, merged_rows
from imgcls_ray.store.schema import PRECISION_RANGES_KEY, RANGES_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from imgcls_ray.store.history import Piece
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.rows import Ranges, Source

_FILE_BYTES = 128 * 2**20
_GROUP_ROWS, _GROUP_BYTES = 65_536, 16 * 2**20
# For each piece of a store a reader has a page of each column in memory, and its dictionary: of values that hardly ever
# repeat, which is a megabyte, the files have none.
_WITH_DICTIONARY = ["status", "error", "label", "label_id", "labels.list.element", "width", "height", "decision"]
_PAGE_BYTES = 128 * 2**10


def write_merged(store: LabelStore, pieces: Sequence[Piece], folder: Path) -> Iterator[tuple[Path, LoggedFile]]:
    """Files of about 128 MB with all rows of the pieces, in order; each is the caller's before the next one begins."""
    schema = store.schema
    with merged_rows(store, pieces) as rows:
        writer = None
        for group in in_groups(table.drop_columns(SOURCE) for table in rows):
            writer = writer or _Writer(folder / uuid.uuid4().hex, schema)
            writer.write(group)
            if writer.num_bytes >= _FILE_BYTES:
                yield writer.close(rows.sources)
                writer = None
        if writer is not None:
            yield writer.close(rows.sources)


class _Writer:
    """One merged file on its way."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            use_dictionary=_WITH_DICTIONARY,
            data_page_size=_PAGE_BYTES,
            write_page_checksum=True,
        )
        self._num_rows = 0
        self._first = self._last = ""

    def write(self, group: pa.Table) -> None:
        uris = group.column("uri")
        self._first = self._first if self._num_rows else uris[0].as_py()
        self._last = uris[-1].as_py()
        self._num_rows += group.num_rows
        self._writer.write_table(group.cast(self._schema), row_group_size=group.num_rows)

    @property
    def num_bytes(self) -> int:
        return os.path.getsize(self._path)

    def close(self, sources: Sequence[Source]) -> tuple[Path, LoggedFile]:
        # Of every file that has been read by now, which are those of these rows and perhaps more.
        limits = joined_ranges(source.limits for source in sources)
        precisions = joined_ranges(source.precisions for source in sources)
        self._writer.add_key_value_metadata(
            {RANGES_KEY.decode(): json.dumps(limits), PRECISION_RANGES_KEY.decode(): json.dumps(precisions)}
        )
        self._writer.close()
        size = os.path.getsize(self._path)
        return self._path, LoggedFile("", size, self._num_rows, self._first, self._last, time.time_ns() // 1_000_000)


def joined_ranges(of_files: Iterable[Ranges]) -> Ranges:
    """What is said of the rows of some files, as of those of one."""
    together: list[tuple[int, str | None]] = []
    for first, text in sorted({entry for ranges in of_files for entry in ranges}, key=lambda entry: entry[0]):
        if not together or together[-1][1] != text:
            together.append((first, text))
    return tuple(together)


def in_groups(
    tables: Iterable[pa.Table], *, most_rows: int | None = None, most_bytes: int | None = None
) -> Iterator[pa.Table]:
    """The same rows in tables of one size, by default that of a row group; none of them is empty."""
    most_rows, most_bytes = most_rows or _GROUP_ROWS, most_bytes or _GROUP_BYTES
    waiting: list[pa.Table] = []
    num_rows = num_bytes = 0
    for table in tables:
        if not table.num_rows:
            continue
        waiting.append(table)
        num_rows, num_bytes = num_rows + table.num_rows, num_bytes + table.nbytes
        if num_rows >= most_rows or num_bytes >= most_bytes:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, num_rows, num_bytes = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
