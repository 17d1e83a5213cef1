"""The rows with the largest values of each label, of a stream of rows of any length."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow.compute as pc

from imgcls_ray.inputs.tables import only_array

if TYPE_CHECKING:
    import pyarrow as pa

    from imgcls_ray.store.label_store import LabelStore


class Shown(NamedTuple):
    """A row that is shown to people."""

    uri: str
    etag: str | None
    confidence: float | None
    """Of its label, 0 to 1; ``None``: it has an error."""
    oddness: float | None = None
    """How unlike the others it is; ``None``: not known."""


class Extremes:
    """Keeps a few rows of each label; of two alike, the one that came first.

    Args:
        num_each: rows of each label.
    """

    def __init__(self, num_each: int) -> None:
        self._num_each = num_each
        self._heaps: dict[str, list[tuple[float, int, Shown]]] = {}
        self._num_seen = 0

    def add(self, rows: pa.Table, group: str, values: np.ndarray) -> None:
        """Look at some rows.

        Args:
            rows: columns ``uri``, ``etag``, ``confidence``, maybe ``oddness``, and the one that they are grouped by.
            group: name of that column.
            values: (N,), the larger the better; NaN is never kept.
        """
        encoded = only_array(rows.column(group)).dictionary_encode()
        names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
        least = np.array([self._least(name) for name in names])
        chosen = np.flatnonzero(values > least[codes])
        # Of each label no more than are kept: in the order of labels, the best first.
        order = chosen[np.lexsort((chosen, -values[chosen], codes[chosen]))]
        firsts = np.searchsorted(codes[order], codes[order])
        order = np.sort(order[np.arange(len(order)) - firsts < self._num_each])
        columns = [name for name in Shown._fields if name in rows.column_names]
        taken = rows.select(columns).take(order).to_pylist()
        for place, row in zip(order.tolist(), taken, strict=True):
            self._push(names[codes[place]], float(values[place]), self._num_seen + place, Shown(**row))
        self._num_seen += rows.num_rows

    def best(self) -> dict[str, list[Shown]]:
        """The rows of each label, best first."""
        return {name: [entry[2] for entry in sorted(heap, reverse=True)] for name, heap in self._heaps.items()}

    def _least(self, name: str) -> float:
        heap = self._heaps.get(name, [])
        return heap[0][0] if len(heap) == self._num_each else -np.inf

    def _push(self, name: str, value: float, number: int, row: Shown) -> None:
        heap = self._heaps.setdefault(name, [])
        entry = (value, -number, row)
        if len(heap) < self._num_each:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)


def confidence_column(store: LabelStore) -> str:
    """The column of a store that says how sure a label is: calibrated where its model is."""
    calibration = store.identity.calibration
    return "score" if calibration is None or calibration.temperature is None else "probability"


def as_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """float64 (N,), NaN where there is none."""
    numbers: np.ndarray = pc.cast(only_array(column), "float64").to_numpy(zero_copy_only=False)
    return numbers
