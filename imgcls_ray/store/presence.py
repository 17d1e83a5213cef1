"""Which inputs of a store are still there, as its newest complete listings found."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow.compute as pc

from imgcls_ray.errors import ImageErrorCode
from imgcls_ray.store.answers import RowsByUri, newest_rows
from imgcls_ray.store.rows import SortedFiles
from imgcls_ray.store.schema import run_and_row
from imgcls_ray.store.side_pieces import PRESENCE, openers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.side_pieces import SidePiece


class Known(NamedTuple):
    """What is known of some inputs."""

    is_absent: np.ndarray
    """Whether each is told as not present."""
    was_missed: np.ndarray
    """Whether a listing missed it last. It is present again if a row of a later run has read it."""


class Presence:
    """Tells of inputs, asked for in the order of their URIs, which are not there any more."""

    def __init__(self, store: LabelStore, pieces: Sequence[SidePiece]) -> None:
        self.pieces = list(pieces)
        self._rows = RowsByUri(SortedFiles([openers(store, piece, PRESENCE) for piece in pieces])) if pieces else None

    def of(self, rows: pa.Table) -> Known:
        """What is known of inputs.

        Args:
            rows: the newest row of each; columns ``image_id``, ``uri`` and ``error``.
        """
        nothing = np.zeros(rows.num_rows, bool)
        uris = rows.column("uri").combine_chunks()
        if self._rows is None or not rows.num_rows or (found := self._rows.find(uris)) is None or not found.num_rows:
            return Known(nothing, nothing)
        changes = newest_rows(found)
        place = pc.index_in(uris, value_set=changes.column("uri").combine_chunks())
        is_known = place.is_valid().to_numpy(zero_copy_only=False)
        place = place.fill_null(0)
        was_missed = is_known & ~changes.column("present").combine_chunks().take(place).to_numpy(zero_copy_only=False)
        missed_in = changes.column("run").combine_chunks().take(place).to_numpy()
        run, _ = run_and_row(rows.column("image_id").to_numpy())
        is_found = pc.not_equal(rows.column("error"), ImageErrorCode.NOT_FOUND.value).fill_null(True).to_numpy()
        return Known(was_missed & ~((run > missed_in) & is_found), was_missed)
