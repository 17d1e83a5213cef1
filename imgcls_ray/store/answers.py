"""Read a store's answers as one stream: the newest row of every input, sorted by URI."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.inputs.tables import only_array, upper_bound
from imgcls_ray.store.history import read_history
from imgcls_ray.store.rows import KEY_COLUMNS, SOURCE, merged_rows, newest_of_each
from imgcls_ray.store.schema import run_and_row, run_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.presence_changes import PresenceChanges
    from imgcls_ray.store.rows import MergedRows, Source
    from imgcls_ray.store.values import ValueChanges


class Answer(NamedTuple):
    """One row of the store, with the values that decide whether its input is planned again."""

    uri: str
    run: int
    etag: str | None
    error: str | None
    file: str
    """Name of the file that holds it."""
    limits: str | None = None
    """The limits that the row was made under, as JSON; ``None`` in parts of earlier versions."""


def answers_in(rows: pa.Table, sources: Sequence[Source]) -> Iterator[Answer]:
    """Rows of a stream as answers, in their order."""
    columns = (rows.column(name).to_pylist() for name in (*KEY_COLUMNS, SOURCE))
    for row, uri, etag, error, number in zip(*columns, strict=True):
        source = sources[number]
        yield Answer(uri, run_of(row), etag, error, source.name, source.limits_of(row))


def all_answers(store: LabelStore) -> Iterator[Answer]:
    """Every row of the store, sorted by URI and then by run."""
    with merged_rows(store, read_history(store).all_pieces, KEY_COLUMNS) as rows:
        for table in rows:
            yield from answers_in(table, rows.sources)


def newest_answers(store: LabelStore) -> Iterator[Answer]:
    """The newest row of every input, which is the valid one, sorted by URI."""
    with merged_rows(store, read_history(store).all_pieces, KEY_COLUMNS) as rows:
        for table in rows:
            yield from answers_in(newest_rows(table), rows.sources)


def newest_rows(table: pa.Table) -> pa.Table:
    """Of the rows of some inputs, sorted by URI and run, the newest one of each."""
    return table.filter(pa.array(newest_of_each(table.column("uri").combine_chunks())))


class Found(NamedTuple):
    """What a store has of some inputs: in each column one value for each."""

    is_new: np.ndarray
    """No row."""
    is_changed: np.ndarray
    """A row of another version."""
    has_failed: np.ndarray
    """A row of this version with an error."""
    runs: np.ndarray
    """The run of the newest row."""
    errors: pa.Array
    """The error of the newest row."""

    @classmethod
    def of(cls, uris: pa.Array, etags: pa.Array, rows: pa.Table | None) -> Self:
        """What some rows say of inputs.

        Args:
            uris: of the inputs.
            etags: their versions as they are listed.
            rows: of these inputs and perhaps others, sorted by URI and run; ``None`` if there is none.
        """
        if rows is None:
            none, runs = np.zeros(len(uris), bool), np.zeros(len(uris), np.int64)
            return cls(~none, none, none, runs, pa.nulls(len(uris), pa.string()))
        newest = newest_rows(rows).combine_chunks()
        found = newest.take(pc.index_in(uris, value_set=newest.column("uri")))
        ids, before, errors = (only_array(found.column(name)) for name in ("image_id", "etag", "error"))
        is_new = ids.is_null().to_numpy(zero_copy_only=False)
        is_same = pc.fill_null(pc.equal(etags, before), False).to_numpy(zero_copy_only=False)
        # An input without a version is never a new one of itself.
        is_changed = ~is_new & ~is_same & etags.is_valid().to_numpy(zero_copy_only=False)
        has_failed = errors.is_valid().to_numpy(zero_copy_only=False) & ~is_changed
        runs, _ = run_and_row(pc.fill_null(ids, 0).to_numpy())
        return cls(is_new, is_changed, has_failed, runs, errors)

    def up_to(self, end: int) -> Found:
        """The first of the inputs only."""
        return Found(*(column[:end] for column in self))


def answers_of(uris: pa.Array, rows: pa.Table | None, sources: Sequence[Source]) -> list[list[Answer]]:
    """All rows of each of some inputs that have any, oldest first."""
    if rows is None or not len(uris):
        return []
    of_them = rows.filter(pc.is_in(rows.column("uri"), value_set=uris))
    by_uri = itertools.groupby(answers_in(of_them, sources), key=lambda answer: answer.uri)
    return [list(group) for _, group in by_uri]


class _Stream(Protocol):
    """Rows sorted by uri."""

    def next(self, at_least: str | None = None) -> tuple[pa.Table, str | None] | None:
        """As of ``MergedRows``."""


class Watch(Protocol):
    """Looks at rows on the way, those of inputs too that nobody asks for."""

    def next_wanted(self, after: str) -> str | None:
        """From which uri on, at or behind one, it wants to see rows; ``None``: none any more."""

    def see(self, rows: pa.Table, is_asked: np.ndarray) -> None:
        """All rows of some inputs, sorted by URI and run, and which of them were asked for."""


class RowsByUri:
    """Finds the rows of inputs, asked for in the order of their URIs."""

    def __init__(self, rows: _Stream, watch: Watch | None = None) -> None:
        self._rows, self._watch = rows, watch
        self._table: pa.Table | None = None
        self._up_to: str | None = ""
        """The rows up to here are in the table or have been given out; ``None``: all are."""

    def find(self, uris: pa.Array) -> pa.Table | None:
        """All rows of inputs, sorted by URI and run; ``None`` if there is none.

        Args:
            uris: not empty, ascending, and above all that were asked for before.
        """
        wanted = []
        for table in self._up_to_last(uris):
            is_asked = pc.is_in(table.column("uri"), value_set=uris)
            wanted.append(table.filter(is_asked))
            if self._watch is not None:
                self._watch.see(table, is_asked.to_numpy())
        return pa.concat_tables(wanted) if wanted else None

    def _up_to_last(self, uris: pa.Array) -> Iterator[pa.Table]:
        first, last = uris[0].as_py(), uris[-1].as_py()
        while True:
            if self._table is not None:
                stop = upper_bound(self._table.column("uri"), last)
                if stop:
                    yield self._table.slice(0, stop)
                self._table = self._table.slice(stop) if stop < self._table.num_rows else None
            if self._up_to is None or last <= self._up_to:
                return
            # What lies between two inputs that are asked for is not read, unless it is watched.
            beyond = uris[upper_bound(uris, self._up_to)].as_py() if self._up_to > first else first
            if self._watch is not None and (watched := self._watch.next_wanted(self._up_to)) is not None:
                beyond = min(beyond, watched)
            self._table, self._up_to = self._rows.next(at_least=beyond) or (None, None)

    def see_rest(self) -> None:
        """Let the watch see what it wants to, behind the last input that was asked for."""
        if self._watch is None:
            return
        while True:
            if self._table is not None:
                self._watch.see(self._table, np.zeros(self._table.num_rows, bool))
                self._table = None
            if self._up_to is None or (beyond := self._watch.next_wanted(self._up_to)) is None:
                return
            self._table, self._up_to = self._rows.next(at_least=beyond) or (None, None)


class AnswersByUri(RowsByUri):
    """The same of a store's answers."""

    def __init__(self, rows: MergedRows, watch: Watch | None) -> None:
        super().__init__(rows, watch)
        self.sources: Sequence[Source] = rows.sources


@contextmanager
def answers_by_uri(
    store: LabelStore, presence: PresenceChanges | None = None, values: ValueChanges | None = None
) -> Iterator[AnswersByUri]:
    """The rows that a store has now, for look-ups in the order of their URIs.

    Args:
        store: which.
        presence: compares what is asked for with them.
        values: is told of the history that it compares with.

    Raises:
        LabelStoreDamagedError: a file is damaged or lost.
    """
    history = read_history(store)
    if presence is not None:
        presence.begin(store, history)
    if values is not None:
        values.begin(store, history)
    with merged_rows(store, history.all_pieces, KEY_COLUMNS) as rows:
        yield AnswersByUri(rows, presence)
