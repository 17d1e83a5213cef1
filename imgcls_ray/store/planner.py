"""Plan while the listing goes on, so that the first units do not wait for the last page of a hundred million names.

A thread lists and compares, and keeps its results on disk. A long listing is planned as several runs, one after the
other: the inputs found by the time the workers have nothing to do become the next plan. Each plan is complete and
written before its first unit starts, and never changes. The numbers of the plans are consecutive, from the number that
was claimed before the comparison began. If another run on the same store has planned in the meantime, it has taken the
next number, and this run ends instead of planning an input twice.
"""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imgcls_ray.inputs.tables import tables_of
from imgcls_ray.store.plan import Spool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from imgcls_ray.storage.files import FileInfo
    from imgcls_ray.store.presence_changes import PresenceChanges
    from imgcls_ray.store.values import ValueChanges

# A run has a beginning and an end in which workers wait: it should be worth them.
_PLAN_AFTER_S = 60.0
_PLAN_ROWS = 65_536
_ROWS = 4096
_JOIN_S = 5.0


@contextmanager
def plan_ahead(
    files: Iterable[FileInfo],
    *,
    limit: int | None = None,
    presence: PresenceChanges | None = None,
    values: ValueChanges | None = None,
) -> Iterator[Iterator[Spool]]:
    """List in a thread while the block runs; it gets the inputs of one plan after the other.

    Args:
        files: sorted, planned inputs; iterated in the thread.
        limit: take at most this many of them.
        presence: what the listing finds changed; the last plan gets it.
        values: what lists tell of inputs; each plan gets what has been seen by then.

    Yields:
        Spools that are not empty, except for the only one of an input with nothing to label, and for the last one if
        something has changed that it tells of. Each is gone when the next is asked for. What ``files`` raises is raised
        there.
    """
    planner = _Planner(tables_of(files, rows=_ROWS, limit=limit), presence, values)
    thread = threading.Thread(target=planner.run, name="plan", daemon=True)
    thread.start()
    try:
        yield planner.plans()
    finally:
        planner.stop()
        # A request to a storage that does not answer has its own deadline; nobody waits for that here.
        thread.join(_JOIN_S)


class _Planner:
    def __init__(
        self, tables: Iterator[pa.Table], presence: PresenceChanges | None, values: ValueChanges | None
    ) -> None:
        self._tables, self._presence, self._values = tables, presence, values
        self._changed = threading.Condition()
        self._spool = Spool()
        self._since = time.monotonic()
        self._is_complete = self._is_stopped = False
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._is_stopped and (table := next(self._tables, None)) is not None:
                with self._changed:
                    self._spool.add(table)
                    self._changed.notify()
        except BaseException as error:  # raised again where the plans are read
            self._error = error
        with self._changed:
            self._is_complete = True
            self._changed.notify()

    def stop(self) -> None:
        self._is_stopped = True

    def plans(self) -> Iterator[Spool]:
        for number in itertools.count():
            with self._changed:
                while not self._is_ready():
                    self._changed.wait(1.0)
                spool, self._spool = self._spool, Spool()
                is_last, self._since = self._is_complete, time.monotonic()
            with spool:
                if self._error is not None and not spool.num_images:
                    raise self._error
                if is_last and self._presence is not None and self._presence.is_complete:
                    spool.presence = self._presence
                spool.values = self._values
                is_telling = any(changes is not None and changes.is_any for changes in (spool.presence, spool.values))
                if spool.num_images or number == 0 or is_telling:
                    yield spool.complete()
            if is_last and self._error is None:
                return

    def _is_ready(self) -> bool:
        long_enough = time.monotonic() - self._since >= _PLAN_AFTER_S
        return self._is_complete or (long_enough and self._spool.num_images >= _PLAN_ROWS)
