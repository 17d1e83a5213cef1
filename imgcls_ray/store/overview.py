"""What is in a store, for a page about it: counts by label and by error, and the rows that people should look at.

The rows are read once, in tables. Memory grows with the number of labels, not with the number of rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.inputs.tables import only_array
from imgcls_ray.store.answers import newest_rows
from imgcls_ray.store.diff import Comparison, side_of
from imgcls_ray.store.drift import drift_of_run, newest_profile
from imgcls_ray.store.extremes import Extremes, Shown, as_numbers, confidence_column
from imgcls_ray.store.history import read_history, side_pieces
from imgcls_ray.store.oddness import OddRows, add_oddness
from imgcls_ray.store.presence import Presence
from imgcls_ray.store.rows import KEY_COLUMNS, SOURCE, merged_rows
from imgcls_ray.store.schema import run_and_row
from imgcls_ray.store.side_pieces import PRESENCE
from imgcls_ray.store.status import read_status

if TYPE_CHECKING:
    from imgcls_ray.store.diff_result import StoreDiff
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.records import RunRecord

NUM_BINS = 20
_NUM_EXAMPLES = 3  # of each move from one label to another


@dataclass
class LabelCounts:
    """Inputs with one label."""

    total: int = 0
    of_run: int = 0
    """Those that the newest run labelled."""
    unsure: int = 0
    """Those whose ``decision`` is ``unsure``."""


@dataclass
class Overview:
    """The newest rows of a store, without those of inputs that are not there any more."""

    store: str
    model: str
    fingerprint: str
    run: int | None = None
    """The newest run that labelled anything; ``None``: none has."""
    record: RunRecord | None = None
    """Its record; ``None``: it is open."""
    confidence: str = "score"
    """Column that says how sure a label is."""
    has_decisions: bool = False
    odd_rows: OddRows | None = None
    """How it was found out what is odd; ``None``: the store has nothing that tells."""
    drift: str = ""
    """How far the images of the newest run are from those of the model's evaluation; empty if that is not known."""
    num_absent: int = 0
    labels: dict[str, LabelCounts] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    codes_of_run: Counter[str] = field(default_factory=Counter)
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(NUM_BINS, np.int64))
    """Inputs by confidence, in equal steps from 0 to 1."""
    surest: dict[str, list[Shown]] = field(default_factory=dict)
    """By label, as the other two."""
    doubtful: dict[str, list[Shown]] = field(default_factory=dict)
    oddest: dict[str, list[Shown]] = field(default_factory=dict)
    failed: dict[str, list[Shown]] = field(default_factory=dict)
    """By code."""
    changes: StoreDiff | None = None
    """What became of the inputs of the newest run; ``None``: it was the first one."""

    @property
    def num_labelled(self) -> int:
        return sum(counts.total for counts in self.labels.values())

    @property
    def num_failed(self) -> int:
        return self.codes.total()


def read_overview(store: LabelStore, *, num_each: int) -> Overview:
    """Read the newest rows of a store.

    Args:
        store: which.
        num_each: surest, most doubtful and oddest rows of each label, and examples of each error.

    Raises:
        LabelStoreDamagedError: a file of the store is damaged or lost.
    """
    status = read_status(store)
    overview = Overview(store.uri, store.identity.model, store.identity.fingerprint, status.newest_run)
    if overview.run is not None and overview.run not in {run.run for run in status.open_runs}:
        overview.record = store.run_record(overview.run)
    if overview.record is not None and (found := newest_profile(store, overview.run)) is not None:
        drift = drift_of_run(store, found[1])
        overview.drift = drift.words if drift is not None else ""
    reader = _Reader(store, overview, num_each)
    history = read_history(store)
    presence = Presence(store, side_pieces(store, history, PRESENCE))
    with merged_rows(store, history.all_pieces, reader.columns) as rows:
        for table in rows:
            reader.add(table.drop_columns(SOURCE), presence)
    reader.end()
    add_oddness(store, overview, reader.stretches, num_each=num_each)
    return overview


class _Reader:
    """Takes tables of rows, sorted by URI and run, into an overview."""

    def __init__(self, store: LabelStore, overview: Overview, num_each: int) -> None:
        names = store.schema.names
        self._overview = overview
        overview.confidence = confidence_column(store)
        calibration = store.identity.calibration
        overview.has_decisions = calibration is not None and calibration.thresholds is not None
        extra = [name for name in ("probability", "decision", "ood_score") if name in names]
        self.columns = [*KEY_COLUMNS, "label", "score", *extra]
        self._surest, self._doubtful, self._failed, self._oddest = (Extremes(num_each) for _ in range(4))
        self._has_oddness = "ood_score" in names
        self._changes: Comparison | None = None
        if overview.run is not None and overview.run > 1:
            side = side_of(store)
            self._changes = Comparison(side, side, num_examples=_NUM_EXAMPLES, is_any_version=True)
        self._num_before = 0
        self.stretches: list[str] = []
        """The first URI of each table."""

    def add(self, table: pa.Table, presence: Presence) -> None:
        if not table.num_rows:
            return
        newest = newest_rows(table)
        is_absent = presence.of(newest).is_absent
        self._overview.num_absent += int(is_absent.sum())
        if not is_absent.all():
            newest = newest.filter(pa.array(~is_absent))
            self.stretches.append(newest.column("uri")[0].as_py())
            runs, _ = run_and_row(newest.column("image_id").to_numpy())
            is_of_run = runs == self._overview.run
            self._compare(table, newest.filter(pa.array(is_of_run)))
            self._count(newest, is_of_run)

    def _compare(self, table: pa.Table, of_run: pa.Table) -> None:
        """Compare the rows of the newest run with those that their inputs had before."""
        runs, _ = run_and_row(table.column("image_id").to_numpy())
        earlier = table.filter(pa.array(runs < (self._overview.run or 0)))
        self._num_before += earlier.num_rows
        if self._changes is None or not of_run.num_rows:
            return
        before = newest_rows(earlier) if earlier.num_rows else earlier
        before = before.filter(pc.is_in(before.column("uri"), value_set=only_array(of_run.column("uri"))))
        here, there = (rows.append_column("present", pa.repeat(True, rows.num_rows)) for rows in (before, of_run))
        self._changes.add(here, there)

    def _count(self, newest: pa.Table, is_of_run: np.ndarray) -> None:
        overview = self._overview
        newest = newest.append_column("of_run", pa.array(is_of_run))
        newest = newest.append_column("confidence", pc.cast(newest.column(overview.confidence), "float64"))
        is_good = newest.column("error").is_null()
        good, bad = newest.filter(is_good), newest.filter(pc.invert(is_good))
        for code, is_new, count in _counts(bad, "error", "of_run"):
            overview.codes[code] += count
            overview.codes_of_run[code] += count if is_new else 0
        for label, is_new, count in _counts(good, "label", "of_run"):
            counts = overview.labels.setdefault(label, LabelCounts())
            counts.total += count
            counts.of_run += count if is_new else 0
        if overview.has_decisions:
            for label, decision, count in _counts(good, "label", "decision"):
                overview.labels[label].unsure += count if decision == "unsure" else 0
        if bad.num_rows:
            # The first ones.
            self._failed.add(bad, "error", np.zeros(bad.num_rows))
        if good.num_rows:
            self._take_good(good)

    def _take_good(self, good: pa.Table) -> None:
        confidences = as_numbers(good.column("confidence"))
        places = np.floor(np.nan_to_num(confidences) * NUM_BINS).clip(0, NUM_BINS - 1).astype(np.int64)
        self._overview.histogram += np.bincount(places, minlength=NUM_BINS)
        if self._has_oddness:
            oddness = as_numbers(good.column("ood_score"))
            good = good.append_column("oddness", pa.array(oddness))
            self._oddest.add(good, "label", oddness)
        self._surest.add(good, "label", confidences)
        self._doubtful.add(good, "label", -confidences)

    def end(self) -> None:
        overview = self._overview
        overview.surest, overview.doubtful = self._surest.best(), self._doubtful.best()
        overview.failed, overview.oddest = self._failed.best(), self._oddest.best()
        if self._changes is not None and self._num_before:
            overview.changes = self._changes.found()


def _counts(rows: pa.Table, *names: str) -> list[tuple[str, object, int]]:
    """Numbers of rows by the values of two columns."""
    if not rows.num_rows:
        return []
    found = rows.select(names).group_by(list(names)).aggregate([([], "count_all")])
    columns = (found.column(name).to_pylist() for name in (*names, "count_all"))
    return list(zip(*columns, strict=True))
