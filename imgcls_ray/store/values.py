"""What lists say of a store's inputs beside where they are: the values of their other columns, of the newest list.

They are no part of the rows: a list with other values labels nothing again. Only what a list has otherwise than the
store is written, beside the plan of its run.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.errors import LabelStoreDamagedError
from imgcls_ray.inputs.kept import common_type
from imgcls_ray.inputs.tables import only_array
from imgcls_ray.store.answers import RowsByUri, newest_rows
from imgcls_ray.store.history import plan_of, side_pieces
from imgcls_ray.store.rows import SortedFiles
from imgcls_ray.store.side_changes import SideChanges, write_piece
from imgcls_ray.store.side_pieces import VALUES, openers, with_piece

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from imgcls_ray.inputs.kept import Kept
    from imgcls_ray.store.history import History
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.side_pieces import SidePiece, ValuesRecord


class StoredValues:
    """The values that a store has, asked for in the order of the URIs."""

    def __init__(self, store: LabelStore, history: History) -> None:
        self._store = store
        self.pieces: list[SidePiece] = side_pieces(store, history, VALUES)
        self._rows = RowsByUri(SortedFiles([openers(store, piece, VALUES) for piece in self.pieces]))

    def columns(self) -> dict[str, str]:
        """All columns that lists had, with their types."""
        return _columns_of(self._store, self.pieces)

    def of(self, uris: pa.Array) -> pa.Array:
        """The values of inputs as texts, null where nothing is known."""
        if not self.pieces or not len(uris) or (found := self._rows.find(uris)) is None or not found.num_rows:
            return pa.nulls(len(uris), pa.string())
        newest = newest_rows(found).combine_chunks()
        place = pc.index_in(uris, value_set=only_array(newest.column("uri")))
        return only_array(newest.column("values")).take(place)


class ValueChanges:
    """What lists tell otherwise than the store does; ``see`` is called with listed files in the order of their URIs.

    Args:
        kept: which columns are kept.
    """

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self._stored: StoredValues | None = None
        self._pieces: list[SidePiece] = []
        self._found = SideChanges(VALUES)
        # A plan is written while the listing goes on.
        self._lock = threading.Lock()
        self.num_changed = 0
        """Inputs with other values than the store has, or with the first ones."""

    @property
    def is_any(self) -> bool:
        return self._found.num_rows > 0

    def begin(self, store: LabelStore, history: History) -> None:
        """Compare with these values."""
        self._stored = StoredValues(store, history)
        self._pieces = self._stored.pieces

    def see(self, files: pa.Table) -> None:
        """Files of a listing."""
        assert self._stored is not None
        texts = only_array(files.column("values"))
        if texts.null_count == len(texts):
            return
        is_told = texts.is_valid()
        uris, texts = only_array(files.column("uri")).filter(is_told), texts.filter(is_told)
        changed = pc.fill_null(pc.not_equal(texts, self._stored.of(uris)), True)
        if changed.true_count:
            with self._lock:
                self._found.add(uris.filter(changed), texts.filter(changed))
                self.num_changed += changed.true_count

    def write(self, store: LabelStore, run: int) -> ValuesRecord | None:
        """Write what has been seen since the last plan. Returns what the plan's record says of it, if it is anything.

        Raises:
            StoreInUseError: another command has written there.
        """
        with self._lock:
            found, self._found = self._found, SideChanges(VALUES)
        with found:
            if not found.num_rows:
                return None
            piece = write_piece(store, run, self._pieces, found)
        columns = _columns_of(store, [old for old in self._pieces if old.run >= piece.since_run])
        self._pieces = with_piece(self._pieces, piece)
        for name, kind in dict(self.kept.types).items():
            columns[name] = common_type(columns.get(name), kind)
        return {"columns": columns, "piece": list(piece)}


def _columns_of(store: LabelStore, pieces: Iterable[SidePiece]) -> dict[str, str]:
    """The columns in pieces, with their types."""
    columns: dict[str, str] = {}
    for piece in pieces:
        plan = plan_of(store, piece.run)
        for name, kind in (plan.get("values", {}).get("columns", {}) if plan else {}).items():
            columns[name] = common_type(columns.get(name), kind)
    return columns


class ValueColumns:
    """The values of a store as a column of structures, with one row for each row of the lists."""

    def __init__(self, store: LabelStore, history: History) -> None:
        self._uri, self._stored = store.uri, StoredValues(store, history)
        self._types = {name: _arrow_type(kind) for name, kind in self._stored.columns().items()}

    @property
    def fields(self) -> list[pa.Field]:
        """``input``, and the number of the row among those of the list that name the same input; none without lists."""
        if not self._types:
            return []
        return [pa.field("input", pa.struct(list(self._types.items()))), pa.field("occurrence", pa.int32())]

    def add_to(self, table: pa.Table) -> pa.Table:
        """Rows with these fields: each once, or as often as the newest list names its input.

        Raises:
            LabelStoreDamagedError: values are none that the store writes.
        """
        if not self._types:
            return table
        try:
            told = [_rows_in(text) for text in self._stored.of(only_array(table.column("uri"))).to_pylist()]
            counts = np.array([max(len(rows), 1) for rows in told], np.int64)
            nothing: list[dict[str, Any] | None] = [None]
            rows = [row for of_it in told for row in of_it or nothing]
            column = self._structures(rows)
        except (ValueError, TypeError, pa.ArrowException) as error:
            raise LabelStoreDamagedError(
                f"{self._uri}: what lists said of inputs is damaged ({error}); bring plans/*/values-*.parquet back "
                "from a copy"
            ) from error
        firsts = np.repeat(np.cumsum(counts) - counts, counts)
        numbers = np.arange(len(rows)) - firsts + 1
        occurrence = pa.array(numbers, pa.int32(), mask=np.array([row is None for row in rows], bool))
        if len(rows) != table.num_rows:
            table = table.take(pa.array(np.repeat(np.arange(table.num_rows), counts)))
        first, second = self.fields
        return table.append_column(first, column).append_column(second, occurrence)

    def _structures(self, rows: Sequence[dict[str, Any] | None]) -> pa.Array:
        columns = [
            _column([row.get(name) if row else None for row in rows], kind) for name, kind in self._types.items()
        ]
        is_null = pa.array([row is None for row in rows], pa.bool_())
        return pa.StructArray.from_arrays(columns, fields=list(self.fields[0].type), mask=is_null)


def _arrow_type(kind: str) -> pa.DataType:
    times = {"timestamp[us]": pa.timestamp("us"), "timestamp[us, tz=UTC]": pa.timestamp("us", "UTC")}
    return times.get(kind) or (pa.string() if kind == "null" else pa.type_for_alias(kind))


def _rows_in(text: str | None) -> list[dict[str, Any]]:
    if text is None:
        return []
    values = json.loads(text)
    rows = values if isinstance(values, list) else [values]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is no object by the names of columns")
    return rows


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return pa.array([None if value is None else _text(value) for value in values], kind)
    if pa.types.is_floating(kind):
        return pa.array([None if value is None else float(value) for value in values], kind)
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.string()).cast(pa.timestamp("us")).cast(kind)
    return pa.array(values, kind)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # JSON can name halves of characters, which no text in UTF-8 has.
    return text.encode("utf-8", "backslashreplace").decode()
