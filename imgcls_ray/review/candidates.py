"""Rows of a store that a person may have to look at: the most doubtful ones, and those least like the others.

The rows are read once, in tables, and a bounded number of them is kept.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.inputs.tables import only_array
from imgcls_ray.store.answers import RowsByUri, newest_rows
from imgcls_ray.store.extremes import as_numbers, confidence_column
from imgcls_ray.store.history import read_history
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.oddness import embeddings_of, with_oddness
from imgcls_ray.store.rows import KEY_COLUMNS, SOURCE, merged_rows

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from imgcls_ray.store.label_store import LabelStore

_SHOWN = ("label", "labels", "scores", "confidence")
_LEAST_KEPT, _MOST_KEPT = 2_000, 20_000
_PER_PLACE = 20
"""Candidates for each place in the queue."""


@dataclass
class Candidates:
    """The rows that were kept, each once."""

    rows: pa.Table
    """``uri``, ``etag``, ``label``, ``labels``, ``scores``, ``confidence``, and ``oddness``, null where not known."""
    confidence: str
    """Column of the store that ``confidence`` is."""
    embeddings: np.ndarray | None
    """float32 (N, D), each of length 1; ``None`` if the store keeps none."""
    classes: list[str]
    """Every label that any row names, sorted."""
    num_labelled: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    """Rows with an error, which nobody can label."""
    num_known: int = 0
    """Rows that were left out because the dataset has their images."""


def find_candidates(store: LabelStore, *, num_places: int, known: AbstractSet[str]) -> Candidates:
    """Read the newest rows of a store, without those of inputs that are not there any more.

    Args:
        store: which.
        num_places: length of the queue.
        known: URIs that are left out.

    Raises:
        LabelStoreDamagedError: a file of the store is damaged or lost.
    """
    num_kept = min(max(_PER_PLACE * num_places, _LEAST_KEPT), max(_MOST_KEPT, num_places))
    names = store.schema.names
    confidence = confidence_column(store)
    extra = [name for name in ("probability", "ood_score") if name in names]
    found = Candidates(pa.table({}), confidence, None, [])
    doubtful, odd = _Kept(num_kept), _Kept(num_kept)
    classes: set[str] = set()
    stretches: list[str] = []
    known_uris = pa.array(sorted(known), pa.string())
    for table in latest_rows(store, [*KEY_COLUMNS, "label", "score", "labels", "scores", *extra], only_present=True):
        is_good = table.column("error").is_null()
        found.codes.update(table.column("error").drop_null().to_pylist())
        stretches.append(table.column("uri")[0].as_py())
        rows = table.filter(is_good)
        found.num_labelled += rows.num_rows
        classes.update(only_array(rows.column("labels")).flatten().unique().drop_null().to_pylist())
        is_new = pc.invert(pc.is_in(rows.column("uri"), value_set=known_uris))
        found.num_known += rows.num_rows - (pc.sum(is_new).as_py() or 0)
        rows = _shaped(rows.filter(is_new), confidence)
        doubtful.add(rows, 1 - as_numbers(rows.column("confidence")))
        odd.add(rows, as_numbers(rows.column("oddness")))
    found.classes = sorted(classes)
    tables = [doubtful.rows(), odd.rows()]
    if store.identity.embedding and "ood_score" not in names:
        sample = with_oddness(store, stretches, num_rows=found.num_labelled)
        sample = _shaped(sample.filter(pc.invert(pc.is_in(sample.column("uri"), value_set=known_uris))), "confidence")
        unlike = _Kept(num_kept)
        unlike.add(sample, as_numbers(sample.column("oddness")))
        tables.append(unlike.rows())
    found.rows = _each_once(tables)
    if store.identity.embedding and found.rows.num_rows:
        found.embeddings = _embeddings(store, found.rows)
    return found


def _shaped(rows: pa.Table, confidence: str) -> pa.Table:
    """The columns of ``Candidates.rows``."""
    columns = {name: rows.column(name) for name in ("uri", "etag", "label", "labels", "scores")}
    columns["confidence"] = rows.column(confidence).cast("float64")
    own = next((name for name in ("oddness", "ood_score") if name in rows.column_names), None)
    nothing = pa.chunked_array([pa.nulls(rows.num_rows, pa.float64())])
    columns["oddness"] = rows.column(own).cast("float64") if own else nothing
    return pa.table(columns)


class _Kept:
    """The rows with the largest values; of equal ones, those that came first."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._tables: list[pa.Table] = []
        self._values = np.empty(0)
        self._least = -np.inf

    def add(self, rows: pa.Table, values: np.ndarray) -> None:
        is_wanted = values > self._least
        if is_wanted.any():
            self._tables.append(rows.filter(pa.array(is_wanted)))
            self._values = np.concatenate([self._values, values[is_wanted]])
            if len(self._values) > 2 * self._number:
                self._cut()

    def rows(self) -> pa.Table | None:
        self._cut()
        return self._tables[0] if self._tables else None

    def _cut(self) -> None:
        if self._tables:
            order = np.argsort(-self._values, kind="stable")[: self._number]
            self._tables = [pa.concat_tables(self._tables).combine_chunks().take(pa.array(order))]
            self._values = self._values[order]
            self._least = self._values[-1] if len(order) == self._number else -np.inf


def _each_once(tables: list[pa.Table | None]) -> pa.Table:
    """Rows in the order of their URIs; what says how odd an input is wins over what does not."""
    kept = [table for table in tables if table is not None]
    if not kept:
        return pa.table({"uri": pa.array([], pa.string())})
    together = pa.concat_tables(kept).combine_chunks()
    # Where it is not known how odd a row is, last.
    oddness = pc.fill_null(together.column("oddness"), np.inf)
    order = pc.sort_indices(
        pa.table({"uri": together.column("uri"), "oddness": oddness}),
        [("uri", "ascending"), ("oddness", "ascending")],
    )
    together = together.take(order)
    uris = only_array(together.column("uri"))
    is_first = np.append(True, pc.not_equal(uris[1:], uris[:-1]).to_numpy(zero_copy_only=False))
    return together.filter(pa.array(is_first))


def _embeddings(store: LabelStore, rows: pa.Table) -> np.ndarray:
    """Of some inputs in the order of their URIs; zeros where a row has none."""
    uris = only_array(rows.column("uri"))
    with merged_rows(store, read_history(store).all_pieces, [*KEY_COLUMNS, "embedding"]) as stream:
        found = RowsByUri(stream).find(uris)
    assert found is not None
    newest = newest_rows(found.drop_columns(SOURCE).combine_chunks())
    newest = newest.filter(newest.column("embedding").is_valid())
    place = pc.index_in(uris, value_set=only_array(newest.column("uri")))
    embeddings = embeddings_of(newest)
    matrix = np.zeros((len(uris), embeddings.shape[1]), np.float32)
    is_there = place.is_valid().to_numpy(zero_copy_only=False)
    matrix[is_there] = embeddings[place.drop_null().to_numpy()]
    return matrix
