"""Compare the labels of two stores: which inputs have another one, counted by class names, with examples.

Both stores are read once, side by side in the order of the URIs. Memory grows with the number of different moves from
one class to another, not with the number of images.
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.inputs.tables import only_array, upper_bound
from imgcls_ray.store.diff_result import Example, Side, StoreDiff
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.rows import KEY_COLUMNS
from imgcls_ray.store.schema import STATUS_OK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.store.label_store import LabelStore

_COLUMNS = (*KEY_COLUMNS, "label", "score")
_MAX_MOVES_WITH_EXAMPLES = 20_000


def diff_stores(a: LabelStore, b: LabelStore, *, num_examples: int) -> StoreDiff:
    """Compare the newest rows of two stores.

    Args:
        a: what the labels were.
        b: what they are.
        num_examples: for each move from one class to another.

    Raises:
        LabelStoreDamagedError: a file of a store is damaged or lost.
    """
    comparison = Comparison(side_of(a), side_of(b), num_examples=num_examples)
    for rows_a, rows_b in _side_by_side(latest_rows(a, _COLUMNS), latest_rows(b, _COLUMNS)):
        comparison.add(rows_a, rows_b)
    return comparison.found()


def side_of(store: LabelStore) -> Side:
    """A store as one side of a comparison."""
    return Side(store.uri, store.identity.model, store.identity.fingerprint)


class Comparison:
    """Compares two streams of rows, of which ``add`` gets the same stretch of inputs.

    Args:
        a: what the labels were.
        b: what they are.
        num_examples: for each move from one class to another.
        is_any_version: compare also the labels of other versions of an input, which are counted in any case.
    """

    def __init__(self, a: Side, b: Side, *, num_examples: int, is_any_version: bool = False) -> None:
        self._diff = StoreDiff(a, b)
        self._examples = _Examples(num_examples)
        self._is_any_version = is_any_version

    def add(self, rows_a: pa.Table, rows_b: pa.Table) -> None:
        """Rows of some inputs, one for each: columns of ``KEY_COLUMNS``, ``label``, ``score`` and ``present``."""
        diff = self._diff
        place = pc.index_in(_only(rows_a, "uri"), value_set=_only(rows_b, "uri"))
        is_both = place.is_valid()
        alone_b = pc.invert(pc.is_in(_only(rows_b, "uri"), value_set=_only(rows_a, "uri")))
        present_a, present_b = (
            pc.sum(_only(rows.filter(alone), "present")).as_py() or 0
            for rows, alone in ((rows_a, pc.invert(is_both)), (rows_b, alone_b))
        )
        num_both = pc.sum(is_both).as_py() or 0
        diff.num_only_a += present_a
        diff.num_only_b += present_b
        diff.num_vanished += rows_a.num_rows + rows_b.num_rows - 2 * num_both - present_a - present_b
        if num_both:
            self._compare(rows_a.filter(is_both), rows_b.take(place.drop_null()))

    def found(self) -> StoreDiff:
        self._diff.examples = self._examples.found()
        return self._diff

    def _compare(self, rows_a: pa.Table, rows_b: pa.Table) -> None:
        """Compare the rows of the same inputs."""
        etags_a, etags_b = _only(rows_a, "etag"), _only(rows_b, "etag")
        is_same = pc.or_(pc.fill_null(pc.equal(etags_a, etags_b), False), pc.and_(etags_a.is_null(), etags_b.is_null()))
        self._diff.num_other_version += rows_a.num_rows - (pc.sum(is_same).as_py() or 0)
        if not self._is_any_version:
            rows_a, rows_b = rows_a.filter(is_same), rows_b.filter(is_same)
        is_good = pc.and_(_only(rows_a, "error").is_null(), _only(rows_b, "error").is_null())
        is_bad = pc.invert(is_good)
        codes = [pc.fill_null(_only(rows, "error").filter(is_bad), STATUS_OK) for rows in (rows_a, rows_b)]
        _count(self._diff.codes, *codes)
        rows_a, rows_b = rows_a.filter(is_good), rows_b.filter(is_good)
        labels_a, labels_b = _only(rows_a, "label"), _only(rows_b, "label")
        _count(self._diff.labels, labels_a, labels_b)
        moved = pa.array(np.flatnonzero(pc.not_equal(labels_a, labels_b).to_numpy(zero_copy_only=False)))
        columns = [
            _only(rows, name).take(moved).to_pylist()
            for rows, name in ((rows_a, "label"), (rows_b, "label"), (rows_b, "uri"), (rows_b, "etag"))
        ]
        scores = [_only(rows, "score").take(moved).to_pylist() for rows in (rows_a, rows_b)]
        for label_a, label_b, *example in zip(*columns, *scores, strict=True):
            self._examples.add((label_a, label_b), Example(*example))


def _count(counts: Counter[tuple[str, str]], first: pa.Array, second: pa.Array) -> None:
    pairs = pa.table({"a": first, "b": second}).group_by(["a", "b"]).aggregate([([], "count_all")])
    for one, other, count in zip(*(pairs.column(name).to_pylist() for name in ("a", "b", "count_all")), strict=True):
        counts[one, other] += count


class _Examples:
    """The examples of each move that B is surest of; of two alike, the one with the smaller URI."""

    def __init__(self, num_each: int) -> None:
        self._num_each = num_each
        self._heaps: dict[tuple[str, str], list[tuple[float, int, Example]]] = {}
        self._num_seen: Counter[tuple[str, str]] = Counter()
        self._place = 0

    def add(self, move: tuple[str, str], example: Example) -> None:
        if not self._num_each:
            return
        self._num_seen[move] += 1
        self._place -= 1
        entry = (example.score_b, self._place, example)
        heap = self._heaps.setdefault(move, [])
        if len(heap) < self._num_each:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
        if len(self._heaps) > _MAX_MOVES_WITH_EXAMPLES:
            # Who shows the largest moves does not show these.
            rare = sorted(self._heaps, key=self._num_seen.__getitem__)[: _MAX_MOVES_WITH_EXAMPLES // 2]
            for other in rare:
                del self._heaps[other]

    def found(self) -> dict[tuple[str, str], list[Example]]:
        return {move: [entry[2] for entry in sorted(heap, reverse=True)] for move, heap in self._heaps.items()}


def _side_by_side(*streams: Iterator[pa.Table]) -> Iterator[list[pa.Table]]:
    """Rows of streams sorted by URI: of each a table, which together hold all rows of a stretch of URIs."""
    tables = [next(stream, None) for stream in streams]
    while there := [table for table in tables if table is not None]:
        last = min(table.column("uri")[-1].as_py() for table in there)
        stretch = []
        for number, table in enumerate(tables):
            if table is None:
                stretch.append(there[0].slice(0, 0))
                continue
            stop = upper_bound(table.column("uri"), last)
            stretch.append(table.slice(0, stop))
            tables[number] = table.slice(stop) if stop < table.num_rows else next(streams[number], None)
        yield stretch


def _only(table: pa.Table, name: str) -> pa.Array:
    return only_array(table.column(name))
