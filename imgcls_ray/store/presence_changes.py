"""Compare a complete listing with a store's rows: which inputs are not there any more, and which are there again.

The rows come by while the listing is planned. Only what has changed is kept, on disk, and written beside the plan.
"""

from __future__ import annotations

import bisect
import itertools
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.inputs.tables import lower_bound
from imgcls_ray.storage.files import uri_from_path
from imgcls_ray.storage.left_out import is_of_store
from imgcls_ray.store.presence import Presence
from imgcls_ray.store.rows import newest_of_each
from imgcls_ray.store.side_changes import SideChanges, write_piece
from imgcls_ray.store.side_pieces import PRESENCE, pieces_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.storage.left_out import ListingCounts
    from imgcls_ray.store.history import History
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.side_pieces import PresenceRecord


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
        self._found = SideChanges(PRESENCE)
        self.is_complete = False
        """Whether the listing has come to its end, and everything in it was found, not named by a list."""
        self.num_vanished = self.num_returned = 0

    @property
    def is_any(self) -> bool:
        return self.is_complete and bool(self.num_vanished or self.num_returned)

    def begin(self, store: LabelStore, history: History) -> None:
        """Compare with these rows of a store."""
        self._presence, self._store_uri = Presence(store, pieces_in(history.log.summary, PRESENCE)), store.uri

    def end(self) -> None:
        """The listing has come to its end, and all rows have been seen."""
        self.is_complete = not self._listing.has_list
        if not self.is_complete or not self._found.num_rows:
            return
        seen, self._found = self._found, SideChanges(PRESENCE)
        with seen:
            for table in seen.tables():
                uris, present = (table.column(name).to_pylist() for name in ("uri", "present"))
                self._keep(
                    [(uri, there) for uri, there in zip(uris, present, strict=True) if there or self._is_gone(uri)]
                )

    def _keep(self, changes: Sequence[tuple[str, bool]]) -> None:
        if changes:
            uris, present = zip(*changes, strict=True)
            self._found.add(pa.array(uris), pa.array(present))
            self.num_returned += sum(present)
            self.num_vanished += len(present) - sum(present)

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
        uris = rows.column("uri").take(pa.array(changed)).to_pylist()
        told = zip(uris, is_listed[changed].tolist(), strict=True)
        if kept := [(uri, is_present) for uri, is_present in told if is_present or self._would_list(uri)]:
            self._found.add(*map(pa.array, zip(*kept, strict=True)))

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
                record["piece"] = list(write_piece(store, run, self._presence.pieces, found, of_first=_only_absent))
        return record


def _only_absent(changes: pa.Table) -> pa.Table:
    """What is not told of is there."""
    return changes.filter(pc.invert(changes.column("present")))
