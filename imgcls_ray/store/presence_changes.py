"""Compare a complete listing with a store's rows: which inputs are not there any more, and which are there again.

The rows come by while the listing is planned. Only what has changed is kept, on disk, and written beside the plan.
"""

from __future__ import annotations

import bisect
import io
import itertools
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imgcls_ray.errors import StoreInUseError
from imgcls_ray.inputs.tables import lower_bound
from imgcls_ray.storage.files import uri_from_path
from imgcls_ray.storage.left_out import is_of_store
from imgcls_ray.storage.scratch import scratch_file
from imgcls_ray.store.answers import newest_rows
from imgcls_ray.store.presence import Presence
from imgcls_ray.store.presence_pieces import PRESENCE_SCHEMA, PresencePiece, openers, pieces_in
from imgcls_ray.store.rows import SortedFiles, newest_of_each

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imgcls_ray.storage.left_out import ListingCounts
    from imgcls_ray.store.history import History
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.presence_pieces import PresenceRecord

_ROWS_IN_MEMORY = 16_384
_ROWS_PER_FILE = 262_144
_THIS_RUN = 0
"""In place of a number that is not known before the plan is written."""


class PresenceChanges:
    """What one listing finds changed; ``see`` is called with the store's rows in the order of their URIs.

    Args:
        listing: tells of its places, and of what it passed over.
        is_empty_trusted: whether also the inputs of a place vanish in which nothing is left. By default they do not,
            because a volume that is not mounted looks the same.
    """

    def __init__(self, listing: ListingCounts, *, is_empty_trusted: bool = False) -> None:
        self._listing, self._is_empty_trusted = listing, is_empty_trusted
        self._presence: Presence | None = None
        self._store_uri = ""
        self._ranges: list[tuple[str, str]] | None = None
        self._found = _Changes()
        self.is_complete = False
        """Whether the listing has come to its end, and everything in it was found, not named by a list."""
        self.num_vanished = self.num_returned = 0

    @property
    def is_any(self) -> bool:
        return self.is_complete and bool(self.num_vanished or self.num_returned)

    def begin(self, store: LabelStore, history: History) -> None:
        """Compare with these rows of a store."""
        self._presence, self._store_uri = Presence(store, pieces_in(history.log.summary)), store.uri

    def end(self) -> None:
        """The listing has come to its end, and all rows have been seen."""
        self.is_complete = not self._listing.has_list
        if not self.is_complete or not self._found.num_rows:
            return
        seen, self._found = self._found, _Changes()
        with seen:
            for uri, is_present in seen:
                if is_present or self._is_gone(uri):
                    self._found.add(uri, is_present=is_present)
                    self.num_vanished += not is_present
                    self.num_returned += is_present

    def next_wanted(self, after: str) -> str | None:
        """As of ``answers.Watch``: what lies in the listed places."""
        ranges = self._all_ranges()
        place = bisect.bisect_right(ranges, after, key=lambda bounds: bounds[1])
        return max(ranges[place][0], after) if place < len(ranges) else None

    def see(self, rows: pa.Table, is_asked: np.ndarray) -> None:
        """As of ``answers.Watch``."""
        if not rows.num_rows:
            return
        ranges, uris = self._all_ranges(), rows.column("uri")
        first, last = uris[0].as_py(), uris[-1].as_py()
        place = bisect.bisect_right(ranges, first, key=lambda bounds: bounds[1])
        for low, high in itertools.takewhile(lambda bounds: bounds[0] <= last, ranges[place:]):
            start, stop = lower_bound(uris, low), lower_bound(uris, high)
            if start < stop:
                self._see(rows.slice(start, stop - start), is_asked[start:stop])

    def _see(self, rows: pa.Table, is_listed: np.ndarray) -> None:
        assert self._presence is not None
        if is_listed.all() and not self._presence.pieces:
            return
        is_newest = newest_of_each(rows.column("uri").combine_chunks())
        rows, is_listed = rows.filter(pa.array(is_newest)), is_listed[is_newest]
        known = self._presence.of(rows)
        is_missing = ~is_listed & ~known.is_absent
        changed = np.flatnonzero(is_missing | (is_listed & known.was_missed))
        for uri, is_present in zip(
            rows.column("uri").take(pa.array(changed)).to_pylist(), is_listed[changed].tolist(), strict=True
        ):
            if is_present or self._would_list(uri):
                self._found.add(uri, is_present=is_present)

    def _all_ranges(self) -> list[tuple[str, str]]:
        """Where the listed places lie among the URIs, ascending and apart from each other."""
        if self._ranges is None:
            self._ranges = []
            for low, high in sorted(bounds for place in self._listing.places for bounds in place.ranges()):
                if self._ranges and low <= self._ranges[-1][1]:
                    self._ranges[-1] = (self._ranges[-1][0], max(high, self._ranges[-1][1]))
                else:
                    self._ranges.append((low, high))
        return self._ranges

    def _would_list(self, uri: str) -> bool:
        if is_of_store(uri, self._store_uri):
            return False
        return any(place.takes(uri) for place in self._listing.places)

    def _is_gone(self, uri: str) -> bool:
        """Whether an input is not there, if the listing as a whole lacks it."""
        of_it = (place for place in self._listing.places if place.takes(uri))
        return not self._listing.is_passed_over(uri) and all(
            place.is_whole and (place.has_inputs or self._is_empty_trusted) for place in of_it
        )

    def write(self, store: LabelStore, run: int) -> PresenceRecord | None:
        """Write what has changed beside a plan. Returns what its record says of it; nothing if no place was listed.

        Raises:
            StoreInUseError: another command has written there.
        """
        assert self._presence is not None
        listed = sorted(uri_from_path(place.root) for place in self._listing.places if place.is_whole)
        if not listed:
            return None
        record: PresenceRecord = {
            "listed": listed,
            "vanished": self.num_vanished,
            "returned": self.num_returned,
        }
        if self.is_any:
            with self._found as found:
                record["piece"] = list(_write_piece(store, run, self._presence.pieces, found))
        return record


class _Changes:
    """Changes in the order of their URIs, on disk."""

    def __init__(self) -> None:
        self._uris: list[str] = []
        self._is_present: list[bool] = []
        self._file = scratch_file("presence")
        self._writer = pq.ParquetWriter(self._file, PRESENCE_SCHEMA, compression="zstd")
        self.num_rows = 0

    def __enter__(self) -> _Changes:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._file.close()

    def add(self, uri: str, *, is_present: bool) -> None:
        self._uris.append(uri)
        self._is_present.append(is_present)
        self.num_rows += 1
        if len(self._uris) >= _ROWS_IN_MEMORY:
            self._write()

    def _write(self) -> None:
        runs = [_THIS_RUN] * len(self._uris)
        self._writer.write_table(pa.table([self._uris, runs, self._is_present], schema=PRESENCE_SCHEMA))
        self._uris, self._is_present = [], []

    def opened(self) -> pq.ParquetFile:
        """All of them; nothing is added afterwards."""
        self._write()
        self._writer.close()
        return pq.ParquetFile(self._file)

    def __iter__(self) -> Iterator[tuple[str, bool]]:
        file = self.opened()
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["uri", "present"])
            yield from zip(*(column.to_pylist() for column in rows.columns), strict=True)


def _write_piece(store: LabelStore, run: int, pieces: Sequence[PresencePiece], found: _Changes) -> PresencePiece:
    """Write a run's piece, which takes in those of the last pieces that are not much larger."""
    older, num_rows = list(pieces), found.num_rows
    merged: list[PresencePiece] = []
    while older and older[-1].num_rows <= 2 * num_rows:
        merged.insert(0, older.pop())
        num_rows += merged[0].num_rows
    since_run = merged[0].since_run if merged else run
    changes = _merged(store, run, merged, found)
    if not older:
        # Without an older piece that says otherwise, what is not told of is there.
        changes = (table.filter(pc.invert(table.column("present"))) for table in changes)
    num_rows = num_files = 0
    for number, table in enumerate(_files(changes)):
        _write_file(store, PresencePiece(since_run, run, 0, number + 1).names()[number], table)
        num_rows, num_files = num_rows + table.num_rows, number + 1
    return PresencePiece(since_run, run, num_rows, num_files)


def _merged(store: LabelStore, run: int, pieces: Sequence[PresencePiece], found: _Changes) -> Iterator[pa.Table]:
    """The changes of pieces and those that a run found, of each input the last one."""
    for table in SortedFiles([*(openers(store, piece) for piece in pieces), [found.opened]]):
        newest = newest_rows(table)
        runs = newest.column("run")
        runs = pc.if_else(pc.equal(runs, _THIS_RUN), pa.scalar(run, pa.int64()), runs)
        yield newest.set_column(1, PRESENCE_SCHEMA.field("run"), runs)


def _files(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of the size of a file."""
    waiting = PRESENCE_SCHEMA.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while waiting.num_rows >= _ROWS_PER_FILE:
            yield waiting.slice(0, _ROWS_PER_FILE)
            waiting = waiting.slice(_ROWS_PER_FILE)
    if waiting.num_rows:
        yield waiting


def _write_file(store: LabelStore, name: str, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=_ROWS_IN_MEMORY, write_page_checksum=True)
    if not store.directory.create(name, buffer.getvalue()):
        raise StoreInUseError(f"{store.uri}: another run is planning into this store ({name} exists); run again later")
