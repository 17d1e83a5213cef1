"""Which rows are least like the others of their label, by the embeddings that a store keeps.

Of a large store a sample is looked at: stretches of rows, evenly spread over the whole.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.inputs.tables import only_array
from imgcls_ray.store.answers import newest_rows
from imgcls_ray.store.extremes import Extremes, as_numbers, confidence_column
from imgcls_ray.store.history import read_history, side_pieces
from imgcls_ray.store.presence import Presence
from imgcls_ray.store.rows import KEY_COLUMNS, SOURCE, merged_rows
from imgcls_ray.store.side_pieces import PRESENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.overview import Overview

_MAX_ROWS, _MAX_BYTES = 20_000, 64 * 2**20
_NUM_STRETCHES = 64
_LEAST_OF_LABEL = 3
"""Fewer rows have no middle."""


class OddRows(NamedTuple):
    """How it was found out what is odd."""

    by: str
    """``ood_score``, the column, or ``embedding``: the distance from the middle of the label's other rows."""
    num_looked_at: int | None = None
    """Rows that were compared; ``None``: all."""


def add_oddness(store: LabelStore, overview: Overview, stretches: Sequence[str], *, num_each: int) -> None:
    """Say what the oddest rows were found by; where the store has only embeddings, find them.

    Args:
        store: which.
        overview: of the same store; ``oddest`` and ``odd_rows`` are set.
        stretches: URIs from which on to look, ascending.
        num_each: rows of each label.

    Raises:
        LabelStoreDamagedError: a file of the store is damaged or lost.
    """
    if "ood_score" in store.schema.names:
        overview.odd_rows = OddRows("ood_score")
    elif store.identity.embedding and overview.num_labelled:
        rows = with_oddness(store, stretches, num_rows=overview.num_labelled)
        is_part = rows.num_rows < overview.num_labelled
        overview.odd_rows = OddRows("embedding", rows.num_rows if is_part else None)
        extremes = Extremes(num_each)
        extremes.add(rows, "label", as_numbers(rows.column("oddness")))
        overview.oddest = extremes.best()


def with_oddness(store: LabelStore, stretches: Sequence[str], *, num_rows: int) -> pa.Table:
    """Newest rows that have a label and an embedding, at most as many as fit, with ``oddness`` and ``confidence``.

    Args:
        store: that keeps embeddings.
        stretches: URIs from which on to look where not all rows fit, ascending.
        num_rows: that have a label.

    Raises:
        LabelStoreDamagedError: a file of the store is damaged or lost.
    """
    columns = [*KEY_COLUMNS, "label", "labels", "scores", confidence_column(store), "embedding"]
    tables = list(_sample(store, columns, stretches if num_rows > _MAX_ROWS else None))
    if not tables:
        empty = pa.schema([store.schema.field(name) for name in columns]).empty_table()
        tables = [_named(empty, store)]
    rows = pa.concat_tables(tables)
    oddness = distances(embeddings_of(rows), only_array(rows.column("label")).dictionary_encode())
    return rows.append_column("oddness", pa.array(oddness))


def _sample(store: LabelStore, columns: Sequence[str], stretches: Sequence[str] | None) -> Iterator[pa.Table]:
    history = read_history(store)
    presence = Presence(store, side_pieces(store, history, PRESENCE))
    starts: list[str | None] = [None]
    if stretches is not None:
        starts = [*sorted({stretches[len(stretches) * i // _NUM_STRETCHES] for i in range(_NUM_STRETCHES)})]
    num_rows, num_bytes = 0, 0
    with merged_rows(store, history.all_pieces, columns) as rows:
        for number, start in enumerate(starts, 1):
            while num_rows < _MAX_ROWS * number // len(starts) and num_bytes < _MAX_BYTES * number // len(starts):
                if (found := rows.next(start)) is None:
                    return
                newest = newest_rows(found[0].drop_columns(SOURCE))
                newest = newest.filter(pa.array(~presence.of(newest).is_absent))
                newest = newest.filter(pc.and_(newest.column("error").is_null(), newest.column("embedding").is_valid()))
                newest = newest.slice(0, _MAX_ROWS * number // len(starts) - num_rows)
                num_rows += newest.num_rows
                num_bytes += newest.column("embedding").nbytes
                if newest.num_rows:
                    yield _named(newest, store).combine_chunks()
                if found[1] is None:
                    return


def _named(rows: pa.Table, store: LabelStore) -> pa.Table:
    return rows.rename_columns({confidence_column(store): "confidence"})


def embeddings_of(rows: pa.Table) -> np.ndarray:
    """float32 (N, D), each of length 1; those that are no numbers are zeros."""
    values = only_array(rows.column("embedding")).flatten().to_numpy(zero_copy_only=False)
    matrix: np.ndarray = np.array(values, np.float32).reshape(rows.num_rows, -1 if rows.num_rows else 0)
    matrix[~np.isfinite(matrix).all(axis=1)] = 0
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    return matrix


def distances(embeddings: np.ndarray, labels: pa.DictionaryArray) -> np.ndarray:
    """How far each row is from the middle of its label's, (N,) from 0 to 2; NaN where its label has too few."""
    codes = labels.indices.to_numpy(zero_copy_only=False)
    oddness = np.full(len(codes), np.nan)
    for code, count in Counter(codes.tolist()).items():
        if count >= _LEAST_OF_LABEL:
            places = np.flatnonzero(codes == code)
            middle = embeddings[places].mean(axis=0)
            oddness[places] = np.linalg.norm(embeddings[places] - middle, axis=1)
    return oddness
