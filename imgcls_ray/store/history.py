"""Which files hold a store's rows: those that the commit log names, and the parts of runs that it does not know yet.

The rows of the finished runs are sorted pieces, each of consecutive runs (a log-structured merge tree): every run adds
one, and ``compact`` merges neighbours. A part that somebody writes for a run of the log after that is ignored.
"""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.parquet as pq

from imgcls_ray.errors import LabelStoreDamagedError
from imgcls_ray.store.delta_actions import LoggedFile
from imgcls_ray.store.delta_log import Log, commit, read_log
from imgcls_ray.store.parallel import in_parallel
from imgcls_ray.store.rows import bounds_of
from imgcls_ray.store.schema import parse_part_name
from imgcls_ray.store.side_pieces import KINDS, is_lost, pieces_in, with_pieces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.records import PlanRecord, RunRecord
    from imgcls_ray.store.side_pieces import PieceKind, SidePiece

_MERGED_NAME = re.compile(r"^merged-(\d{4,})-(\d{4,})-[0-9a-f]{12}-(\d{4,})\.parquet$")
_RECENT_RUNS = 24
_TRIES = 5


class DataFile(NamedTuple):
    """A file with sorted rows."""

    path: str
    """Its name in ``predictions/``."""
    first_uri: str | None = None
    """Not above the uri of any row; ``None``: not known."""
    last_uri: str | None = None
    """Not below the uri of any row; ``None``: not known."""

    @property
    def name(self) -> str:
        """Its name in the store."""
        return f"predictions/{self.path}"


class Piece(NamedTuple):
    """Rows of consecutive runs, sorted by uri and run: files one after the other."""

    first_run: int
    last_run: int
    files: tuple[DataFile, ...]
    num_rows: int = 0
    """0: not known."""


@dataclass(frozen=True)
class History:
    """Where the rows of a store are."""

    log: Log
    pieces: tuple[Piece, ...]
    """Of the runs in the log, ascending."""
    tail: tuple[Piece, ...]
    """Of the runs behind it, finished or open, one piece each, ascending."""

    @property
    def all_pieces(self) -> tuple[Piece, ...]:
        return self.pieces + self.tail


def read_history(store: LabelStore) -> History:
    """Where the rows are now.

    Raises:
        LabelStoreDamagedError: the log is damaged or lost.
    """
    for attempt in itertools.count(1):
        log = current_log(store)
        tail = _tail_of(store, log)
        if tail is None:
            continue
        # A run that misses parts may have been put into the log and merged after the log was read.
        is_certain = log.version < 0 or all(_is_whole(store, piece) for piece in tail) or _is_newest(store, log)
        if is_certain or attempt >= _TRIES:
            return History(log, tuple(pieces_of(log)), tuple(tail))
    raise AssertionError("unreachable")


def pieces_of(log: Log) -> list[Piece]:
    """The pieces of the runs in the log, ascending.

    Raises:
        LabelStoreDamagedError: a file is none of ours.
    """
    places = sorted((_place(file.path), file) for file in log.files.values())
    pieces = []
    for (first, last), group in itertools.groupby(places, key=lambda item: item[0][:2]):
        files = [file for _, file in group]
        named = tuple(DataFile(file.path, file.first_uri, file.last_uri) for file in files)
        pieces.append(Piece(first, last, named, sum(file.num_rows for file in files)))
    return pieces


def merged_name(first_run: int, last_run: int, token: str, number: int) -> str:
    """Name in ``predictions/`` of a file with the rows of several runs."""
    return f"merged-{first_run:04d}-{last_run:04d}-{token}-{number:04d}.parquet"


def is_merged_name(path: str) -> bool:
    return _MERGED_NAME.match(path) is not None


def runs_of(path: str) -> tuple[int, int] | None:
    """The first and last run in a file of ``predictions/``; ``None`` for a foreign name."""
    place = _find_place(path)
    return None if place is None else place[:2]


def _find_place(path: str) -> tuple[int, int, int] | None:
    """Runs of a file, and its number in its piece; ``None`` for a foreign name."""
    if part := parse_part_name(path):
        return part[0], part[0], part[1]
    match = _MERGED_NAME.match(path)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _place(path: str) -> tuple[int, int, int]:
    """Runs of a file, and its number in its piece."""
    if (place := _find_place(path)) is not None:
        return place
    raise LabelStoreDamagedError(
        f"predictions/{path}: was written into the table by another tool; nothing else may write it"
    )


def _tail_of(store: LabelStore, log: Log) -> list[Piece] | None:
    """The parts of the runs behind the log; ``None`` if there is a log by now."""
    if log.version >= 0:
        return [
            Piece(run, run, tuple(DataFile(path) for path in _parts_of(store, run)))
            for run in store.planned_runs(log.through)
        ]
    parts = []
    for path in store.directory.entries("predictions"):
        if is_merged_name(path):
            if current_log(store).version >= 0:
                return None
            raise LabelStoreDamagedError(
                f"{store.uri}: predictions/_delta_log is lost, and with it what is merged; bring it back from a copy"
            )
        if number := parse_part_name(path):
            parts.append((*number, path))
    return [
        Piece(run, run, tuple(DataFile(path) for _, _, path in group))
        for run, group in itertools.groupby(sorted(parts), key=lambda part: part[0])
    ]


def _parts_of(store: LabelStore, run: int) -> list[str]:
    """Part files of a run, in the order of its units."""
    names = store.directory.entries("predictions", starts_with=f"{run:04d}-")
    return [path for number, path in sorted((parse_part_name(name), name) for name in names if parse_part_name(name))]


def _is_whole(store: LabelStore, piece: Piece) -> bool:
    try:
        return len(piece.files) >= store.plan_record(piece.first_run)["num_units"]
    except LabelStoreDamagedError:
        return False


def _is_newest(store: LabelStore, log: Log) -> bool:
    return current_log(store).through == log.through


def current_log(store: LabelStore) -> Log:
    """The newest version of the log.

    Raises:
        LabelStoreDamagedError: the log is damaged or lost.
    """
    store.logs[:] = [read_log(store.directory, *store.logs[:1])]
    return store.logs[0]


def commit_to(store: LabelStore, log: Log, operation: str, **changes: Any) -> Log | None:
    """``delta_log.commit`` to a store."""
    new = commit(store.directory, log, store.schema, operation, **changes)
    if new is not None:
        store.logs[:] = [new]
    return new


def commit_finished(store: LabelStore) -> Log:
    """Put the runs that are finished into the log, as far as no open run is before them. Returns the log.

    Any command may do this at any time, also several at once: the log takes each run once.

    Raises:
        LabelStoreDamagedError: the log, or a part, is damaged.
        StorageError: the storage fails.
    """
    while True:
        log = current_log(store)
        begun = set(store.begun_runs(log.through))
        finished = set(store.finished_runs(log.through, begun=begun))
        # A number that is claimed and not planned is not finished: it may still get a plan.
        through = min(begun - finished, default=max(begun | finished, default=log.through) + 1) - 1
        runs = sorted(run for run in finished if log.through < run <= through)
        if not runs:
            return log
        # Of a whole store, one listing is cheaper than one for every run.
        tail = _tail_of(store, log) if len(runs) > _RECENT_RUNS else []
        if tail is None:
            continue
        listed = {piece.first_run: piece for piece in tail}
        records = list(in_parallel(store.directory, lambda run: _record_of(store, run), runs))
        plans = list(in_parallel(store.directory, lambda run: plan_of(store, run), runs))
        paths = [
            path
            for run, plan in zip(runs, plans, strict=True)
            for path in (_paths(listed.get(run)) if tail else _parts_of(store, run))
            # What answers no unit of the plan is not among the store's rows.
            if plan is None or (parse_part_name(path) or (0, 0))[1] < plan["num_units"]
        ]
        added = list(in_parallel(store.directory, lambda path: describe_file(store, path), paths))
        summary = _summary(log, runs, records, added, through=through)
        for kind in KINDS:
            pieces = with_pieces(pieces_in(log.summary, kind), filter(None, plans), kind)
            summary[kind.name] = [list(piece) for piece in pieces]
        summary["planned"] = log.summary.get("planned", 0) + sum(plan["num_images"] for plan in plans if plan)
        if new := commit_to(store, log, "WRITE", added=added, is_new=True, summary=summary):
            return new


def _paths(piece: Piece | None) -> list[str]:
    return [file.path for file in piece.files] if piece else []


def _record_of(store: LabelStore, run: int) -> RunRecord | None:
    try:
        return store.run_record(run)
    except LabelStoreDamagedError:
        return None


def plan_of(store: LabelStore, run: int) -> PlanRecord | None:
    """What is said of a plan; ``None`` if that is damaged."""
    try:
        return store.plan_record(run)
    except LabelStoreDamagedError:
        return None


def side_pieces(store: LabelStore, history: History, kind: PieceKind) -> list[SidePiece]:
    """The pieces of a kind that count now, those of planned runs behind the log included."""
    tail = in_parallel(store.directory, lambda piece: plan_of(store, piece.first_run), history.tail)
    return with_pieces(pieces_in(history.log.summary, kind), filter(None, tail), kind)


def describe_file(store: LabelStore, path: str) -> LoggedFile:
    """Size and bounds of a file with sorted rows, from its footer.

    Raises:
        LabelStoreDamagedError: it cannot be read.
    """
    with store.reading_rows(name := f"predictions/{path}"), store.directory.open(name) as file:
        footer = pq.ParquetFile(file).metadata
        size = file.seek(0, 2)
        uris = footer.schema.names.index("uri")
        bounds = [bounds_of(footer.row_group(group).column(uris)) for group in range(footer.num_row_groups)]
    first, last = (bounds[0][0], bounds[-1][1]) if bounds else (None, None)
    return LoggedFile(path, size, footer.num_rows, first, last, time.time_ns() // 1_000_000)


def _summary(
    log: Log,
    runs: Iterable[int],
    records: Iterable[RunRecord | None],
    added: Iterable[LoggedFile],
    *,
    through: int,
) -> dict[str, Any]:
    """What ``status`` tells of the store, as the commit keeps it."""
    old = log.summary
    codes = Counter(old.get("codes", {}))
    num_runs, recent, finished = old.get("runs", 0), list(old.get("recent", ())), old.get("finished")
    cost = old.get("cost_per_million_images")
    for run, record in zip(runs, records, strict=True):
        if record is None:
            continue
        codes.update(record["counts"])
        finished = max(finished or "", record["finished"])
        cost = record.get("cost_per_million_images", cost)
        if record["num_images"]:
            num_runs += 1
            recent.append([run, record["finished"], record["num_images"], record["counts"].get("ok", 0)])
    files: Mapping[str, LoggedFile] = {**log.files, **{file.path: file for file in added}}
    return {
        **old,
        "through": through,
        "runs": num_runs,
        "rows": sum(file.num_rows for file in files.values()),
        "codes": dict(codes),
        "finished": finished,
        "cost_per_million_images": cost,
        "recent": recent[-_RECENT_RUNS:],
        **sizes_of(files.values()),
    }


def sizes_of(files: Iterable[LoggedFile]) -> dict[str, int]:
    """Number and bytes of the files that count, for a summary."""
    sizes = [file.size for file in files]
    return {"files": len(sizes), "bytes": sum(sizes)}


def forget_lost(store: LabelStore) -> tuple[Log, int]:
    """Let the files count no more that are gone. Their inputs have no row then, and the next run labels them.

    Returns:
        The log, and the number of rows that it lacks now.
    """
    while True:
        log = commit_finished(store)
        there = set(store.directory.entries("predictions"))
        lost = [path for path in log.files if path not in there]
        files = [file for path, file in log.files.items() if path in there]
        num_rows = sum(file.num_rows for file in files)
        num_forgotten = max(log.summary.get("planned", 0) - num_rows, 0)
        pieces = {kind.name: pieces_in(log.summary, kind) for kind in KINDS}
        kept = {kind.name: [piece for piece in pieces[kind.name] if not is_lost(store, piece, kind)] for kind in KINDS}
        if log.version < 0 or (num_forgotten == log.summary.get("forgotten", 0) and not lost and kept == pieces):
            return log, 0
        summary = {**log.summary, "rows": num_rows, "forgotten": num_forgotten, **sizes_of(files)}
        summary.update({name: [list(piece) for piece in left] for name, left in kept.items()})
        if new := commit_to(store, log, "DELETE", removed=lost, summary=summary):
            return new, num_forgotten - log.summary.get("forgotten", 0)


def late_files(store: LabelStore, log: Log) -> Iterator[str]:
    """Names in ``predictions/`` that look like the store's rows, and that no reader looks at.

    Parts of a late writer, and merged files of a command that was killed before it could put them into the log.
    """
    if log.version < 0:
        return
    for path in store.directory.entries("predictions"):
        runs = runs_of(path)
        if runs and runs[1] <= log.through and path not in log.files and path not in log.removed:
            yield path
