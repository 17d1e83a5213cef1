"""Merge the files of finished runs into few large ones, and remove what readers have left behind.

Each step leaves a whole store: merged files do not count until one commit puts them in the place of what they hold, and
what does not count any more is removed only when it has not counted for a while. Two commands that merge the same files
at once waste work; the log takes the rows of one of them.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imgcls_ray.errors import ImgclsError, LabelStoreDamagedError
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.store.delta_log import (
    Log,
    remove_old_checkpoints,
    tombstones_since,
)
from imgcls_ray.store.history import (
    Piece,
    commit_finished,
    commit_to,
    current_log,
    forget_lost,
    is_merged_name,
    late_files,
    merged_name,
    pieces_of,
    sizes_of,
)
from imgcls_ray.store.merging import write_merged
from imgcls_ray.store.parallel import in_parallel
from imgcls_ray.store.rows import MAX_PIECES
from imgcls_ray.store.tiers import FAN_IN, choose

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from imgcls_ray.store.delta_actions import LoggedFile
    from imgcls_ray.store.label_store import LabelStore

logger = logging.getLogger(__name__)

DEFAULT_KEEP_S = 24 * 3600.0
# For an estimate of how long a merge takes; measured on one core (benchmarks/history.py).
_ROWS_PER_S, _S_PER_FILE = 200_000, 0.005
_SHARE_OF_RUN, _LEAST_BUDGET_S = 0.1, 5.0


@dataclass
class CompactReport:
    """What one ``imgcls store compact`` did."""

    num_merged_files: int = 0
    """Files that were merged."""
    num_new_files: int = 0
    num_rows: int = 0
    """Rows that were written again."""
    num_removed_files: int = 0
    """Files that had not counted for long enough, and are gone now."""
    num_late_files: int = 0
    """Files that never counted, and go after the same time."""
    num_forgotten_rows: int = 0
    """Rows of lost files that count no more; the next run labels their images again."""
    num_pieces: int = 0
    """Sorted pieces that are left."""


def compact_store(
    store: LabelStore,
    *,
    keep_s: float = DEFAULT_KEEP_S,
    budget_s: float | None = None,
    whole: bool = False,
    is_lost_forgotten: bool = False,
) -> CompactReport:
    """Merge what pays, and remove what has not counted for a time.

    Args:
        store: which.
        keep_s: how long files that were merged stay for those who still read them, seconds.
        budget_s: leave out merges that would take longer together, and do not look for late files.
        whole: merge everything into one piece.
        is_lost_forgotten: first let the files count no more that are gone.

    Raises:
        LabelStoreDamagedError: a file is damaged or lost.
        StorageError: the storage fails.
    """
    report = CompactReport()
    start = time.monotonic()
    log = commit_finished(store)
    if is_lost_forgotten:
        log, report.num_forgotten_rows = forget_lost(store)
    log = _sweep(store, log, keep_s, report, look_for_late=budget_s is None)
    while piece_range := _all(log) if whole else choose(pieces_of(log)):
        pieces = pieces_of(log)[piece_range]
        if budget_s is not None:
            left = budget_s - (time.monotonic() - start)
            while len(pieces) > FAN_IN and _seconds(pieces) > left:
                pieces = pieces[: max(FAN_IN, len(pieces) // 2)]
            if _seconds(pieces) > left:
                break
        log = _merge(store, log, pieces, report)
    # The log is listed for that as a whole, which need not be in every run.
    if budget_s is None or log.version % 100 < 3:
        remove_old_checkpoints(store.directory, _now_ms() - keep_s * 1000)
    report.num_pieces = len(pieces_of(log))
    return report


def compact_after_run(store: LabelStore, run_s: float) -> None:
    """Merge what pays at the end of a command, in a tenth of its time, or in five seconds. Never raises.

    Args:
        store: which.
        run_s: how long the command has taken, seconds.
    """
    try:
        num_pieces = len(pieces_of(commit_finished(store)))
        # So many are merged on disk again in every run: then it pays to merge them once.
        budget_s = math.inf if num_pieces > 2 * MAX_PIECES else max(_LEAST_BUDGET_S, _SHARE_OF_RUN * run_s)
        compact_store(store, budget_s=budget_s)
    except ImgclsError as error:
        # The labels are there, and the next command tries again.
        logger.warning("the files of the label store were not merged: %s", error)


def _all(log: Log) -> slice | None:
    """Everything, unless it is one merged piece."""
    pieces = pieces_of(log)
    is_one = len(pieces) == 1 and all(is_merged_name(file.path) for file in pieces[0].files)
    return slice(0, len(pieces)) if pieces and not is_one else None


def _seconds(pieces: Iterable[Piece]) -> float:
    return sum(piece.num_rows / _ROWS_PER_S + len(piece.files) * _S_PER_FILE for piece in pieces)


def _merge(store: LabelStore, log: Log, pieces: Sequence[Piece], report: CompactReport) -> Log:
    """Put merged files in the place of pieces. Returns the log, also where another command was faster."""
    old = [file.path for piece in pieces for file in piece.files]
    first_run, last_run = pieces[0].first_run, pieces[-1].last_run
    new = []
    with scratch_folder("compact") as folder:
        for number, (path, file) in enumerate(write_merged(store, pieces, folder)):
            name = merged_name(first_run, last_run, uuid.uuid4().hex[:12], number)
            store.directory.replace_from(f"predictions/{name}", str(path))
            path.unlink()
            new.append(file._replace(path=name))
    num_rows = sum(file.num_rows for file in new)
    if num_rows != (planned := sum(log.files[path].num_rows for path in old)):
        raise LabelStoreDamagedError(
            f"{store.uri}: files of runs {first_run:04d} to {last_run:04d} hold {num_rows:,} of {planned:,} rows; "
            "bring the damaged ones back from a copy"
        )
    store.refuse_earlier_versions()
    done = _commit_merged(store, log, old, new)
    if done is None:
        # Its files are found and removed as those of a late writer are.
        logger.info("runs %04d to %04d: merged by another command meanwhile", first_run, last_run)
        return current_log(store)
    report.num_merged_files += len(old)
    report.num_new_files += len(new)
    report.num_rows += num_rows
    return done


def _commit_merged(store: LabelStore, log: Log, old: Sequence[str], new: Sequence[LoggedFile]) -> Log | None:
    base = log.version
    while True:
        files = {**{path: file for path, file in log.files.items() if path not in set(old)}, **{f.path: f for f in new}}
        summary = {**log.summary, **sizes_of(files.values())}
        done = commit_to(store, log, "OPTIMIZE", added=new, removed=old, summary=summary)
        if done is not None:
            return done
        log = current_log(store)
        # Somebody may have taken our files, not in the log yet, for those of a dead command and be about to remove
        # them. That is in the commits since, all of which must be seen.
        given_up = tombstones_since(store.directory, base, log.version)
        if given_up is None or not given_up.isdisjoint(file.path for file in new):
            return None
        if not log.files.keys() >= set(old):
            return None


def _sweep(store: LabelStore, log: Log, keep_s: float, report: CompactReport, *, look_for_late: bool) -> Log:
    """Remove files that have not counted for a time; let those of late writers count as removed from now on."""
    late = list(late_files(store, log)) if look_for_late else []
    cutoff = _now_ms() - int(keep_s * 1000)
    old = [path for path, removed_ms in log.removed.items() if removed_ms <= cutoff]
    for _ in in_parallel(store.directory, lambda path: store.directory.remove(f"predictions/{path}"), old):
        report.num_removed_files += 1
    report.num_late_files += len(late)
    if not old and not late:
        return log
    # That they are removed need not be known: who reads an older version of the log removes them once more.
    summary: dict[str, Any] = {**log.summary, "swept_ms": cutoff} if old else dict(log.summary)
    done = commit_to(store, log, "VACUUM", removed=late, summary=summary)
    return done or current_log(store)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
