"""The newest row of every input, as one stream."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from imgcls_ray.store.answers import newest_rows
from imgcls_ray.store.history import plan_of, read_history, side_pieces
from imgcls_ray.store.parallel import in_parallel
from imgcls_ray.store.presence import Presence
from imgcls_ray.store.rows import SOURCE, merged_rows
from imgcls_ray.store.schema import run_and_row
from imgcls_ray.store.side_pieces import PRESENCE
from imgcls_ray.store.values import ValueColumns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from imgcls_ray.store.label_store import LabelStore

_PRESENT = pa.field("present", pa.bool_(), nullable=False)
_OF_RUN = (
    pa.field("run", pa.int64(), nullable=False),
    pa.field("time", pa.timestamp("us", tz="UTC")),
    pa.field("model", pa.string(), nullable=False),
    pa.field("fingerprint", pa.string(), nullable=False),
)


def latest_rows(
    store: LabelStore, columns: Sequence[str] | None = None, *, only_present: bool = False
) -> Iterator[pa.Table]:
    """The newest row of every input, sorted by URI, in tables of some thousand rows.

    Args:
        store: which.
        columns: of the store that are wanted, among them those of ``KEY_COLUMNS``; by default all.
        only_present: leave out the inputs that the newest complete listing of their place did not find any more.

    Yields:
        These columns and ``present``.
    """
    history = read_history(store)
    presence = Presence(store, side_pieces(store, history, PRESENCE))
    with merged_rows(store, history.all_pieces, columns) as rows:
        for table in rows:
            newest = newest_rows(table.drop_columns(SOURCE))
            is_present = pa.array(~presence.of(newest).is_absent)
            newest = newest.append_column(_PRESENT, is_present)
            if only_present:
                newest = newest.filter(is_present)
            if newest.num_rows:
                yield newest


class LatestTable:
    """The newest rows with all that is known of them, as they are exported: one schema, and tables of it.

    Args:
        store: which.
        only_present: as of ``latest_rows``.
    """

    def __init__(self, store: LabelStore, *, only_present: bool = False) -> None:
        self._store, self._only_present = store, only_present
        self._values = ValueColumns(store, read_history(store))
        columns = [*store.schema, _PRESENT, *_OF_RUN, *self._values.fields]
        self.schema: pa.Schema = pa.schema(columns, metadata=store.schema.metadata)
        self._times: dict[int, datetime | None] = {}

    def tables(self) -> Iterator[pa.Table]:
        """As of ``latest_rows``, with what is known of the run of each row and what lists say of its input.

        What several rows of the newest list name is as often here. To be called once.
        """
        for table in latest_rows(self._store, only_present=self._only_present):
            runs, _ = run_and_row(table.column("image_id").to_numpy())
            identity = self._store.identity
            columns = [
                pa.array(runs, pa.int64()),
                pa.array(self._times_of(runs), _OF_RUN[1].type),
                *(pa.repeat(text, len(runs)) for text in (identity.model, identity.fingerprint)),
            ]
            for field, column in zip(_OF_RUN, columns, strict=True):
                table = table.append_column(field, column)
            yield self._values.add_to(table).cast(self.schema)

    def _times_of(self, runs: npt.NDArray[np.int64]) -> list[datetime | None]:
        unknown = [run for run in np.unique(runs).tolist() if run not in self._times]
        plans = in_parallel(self._store.directory, lambda run: plan_of(self._store, run), unknown)
        self._times.update(zip(unknown, map(_created, plans), strict=True))
        return [self._times[run] for run in runs.tolist()]


def _created(plan: Any) -> datetime | None:
    """When a plan was made; ``None`` if its record is damaged."""
    try:
        return datetime.fromisoformat(plan["created"])
    except (TypeError, KeyError, ValueError):
        return None
