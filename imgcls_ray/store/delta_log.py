"""The commit log of a label store: which files hold the rows of its finished runs, in the format of Delta Lake.

``predictions/`` is a Delta table, so every tool that reads Delta sees each of these rows exactly once, also while files
are merged. A commit is one file whose name is its version, created once; of two writers one wins, and the other reads
what the winner wrote and tries again. Checkpoints bound what must be read.

Format: https://github.com/delta-io/delta/blob/master/PROTOCOL.md (reader version 1, writer version 2).
"""

from __future__ import annotations

import itertools
import json
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from imgcls_ray.errors import LabelStoreDamagedError
from imgcls_ray.store.delta_actions import LoggedFile, add_action, logged_file, new_table
from imgcls_ray.store.delta_checkpoint import read_checkpoint, write_checkpoint
from imgcls_ray.store.parallel import in_parallel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imgcls_ray.storage import Directory

LOG_FOLDER = "predictions/_delta_log"
_HINT = f"{LOG_FOLDER}/_last_checkpoint"
_COMMIT = re.compile(r"^(\d{20})\.json$")
_CHECKPOINT = re.compile(r"^(\d{20})\.checkpoint\.parquet$")
_COMMITS_PER_CHECKPOINT = 10
# A commit of so many files is read from a checkpoint from then on.
_MANY_ACTIONS = 1000
_TRIES = 5


@dataclass(frozen=True)
class Log:
    """What the log says, up to one of its versions."""

    version: int = -1
    """-1: there is no log."""
    files: Mapping[str, LoggedFile] = field(default_factory=dict)
    """By path."""
    removed: Mapping[str, int] = field(default_factory=dict)
    """Files that do not count any more and may still be there, with the time in milliseconds since 1970."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """What the last commit told about the store; Delta's readers do not look at it."""
    table: Mapping[str, Any] = field(default_factory=dict)
    """Delta's ``protocol`` and ``metaData``."""

    @property
    def through(self) -> int:
        """All runs up to this number are finished, and their rows are in these files."""
        return int(self.summary.get("through", 0))


def commit_name(version: int) -> str:
    return f"{LOG_FOLDER}/{version:020d}.json"


def checkpoint_name(version: int) -> str:
    return f"{LOG_FOLDER}/{version:020d}.checkpoint.parquet"


def read_log(directory: Directory, known: Log | None = None) -> Log:
    """The newest version of the log; few requests, however old the store is.

    Args:
        directory: of the store.
        known: a version that was read before; what follows it is read.

    Raises:
        LabelStoreDamagedError: a file of the log is lost or damaged, or another tool wrote into the table.
    """
    for attempt in itertools.count(1):
        try:
            if attempt == 1 and known is not None and known.version >= 0:
                return _read_on(directory, known)
            return _read_log(directory, use_hint=attempt <= 2)
        except FileNotFoundError as error:
            # Old files of the log are removed while others read; what is newer is there.
            if attempt == _TRIES:
                raise _damaged(directory, f"{error.filename or error} is lost") from error
    raise AssertionError("unreachable")


def read_summary(directory: Directory) -> Log:
    """The newest version without its files: three requests."""
    hint = _read_hint(directory)
    versions, _ = _listed(directory, hint or 0)
    if not versions:
        return Log()
    actions = _read_commit(directory, max(versions))
    return Log(version=max(versions), summary=_summary_of(directory, max(versions), actions))


def _read_log(directory: Directory, *, use_hint: bool) -> Log:
    start = _read_hint(directory) if use_hint else None
    commits, checkpoints = _listed(directory, start or 0)
    if not commits:
        if start is not None:
            raise FileNotFoundError(commit_name(start))
        return Log()
    base = max((version for version in checkpoints if version <= max(commits)), default=None)
    if start is not None and base is None:
        raise FileNotFoundError(checkpoint_name(start))
    log = Log() if base is None else _from_checkpoint(directory, base)
    newest = max(commits)
    wanted = range(log.version + 1, newest + 1)
    found = in_parallel(directory, lambda version: _read_commit(directory, version), wanted)
    for version, actions in zip(wanted, found, strict=True):
        log = _apply(log, version, actions)
    if not wanted:
        actions = _read_commit(directory, newest)
    return _without_swept(replace(log, summary=_summary_of(directory, newest, actions)))


def _read_on(directory: Directory, log: Log) -> Log:
    commits, _ = _listed(directory, log.version)
    newest = max(commits, default=log.version)
    actions: list[dict[str, Any]] = []
    for version in range(log.version + 1, newest + 1):
        actions = _read_commit(directory, version)
        log = _apply(log, version, actions)
    return _without_swept(replace(log, summary=_summary_of(directory, newest, actions))) if actions else log


def _read_hint(directory: Directory) -> int | None:
    try:
        version = json.loads(directory.read(_HINT))["version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return version if isinstance(version, int) and version >= 0 else None


def _listed(directory: Directory, start: int) -> tuple[list[int], list[int]]:
    """Versions of commits and of checkpoints from one on. Asks for hundreds at a time, not for the whole log."""
    commits: list[int] = []
    checkpoints: list[int] = []
    for hundred in itertools.count(start // 100):
        before = len(commits)
        names = directory.entries(LOG_FOLDER, starts_with=f"{hundred:018d}" if start else "")
        for name in names:
            if match := _COMMIT.match(name):
                commits.append(int(match[1]))
            elif match := _CHECKPOINT.match(name):
                checkpoints.append(int(match[1]))
        if not start or len(commits) == before or max(commits) % 100 != 99:
            break
    return [v for v in commits if v >= start], [v for v in checkpoints if v >= start]


def _read_commit(directory: Directory, version: int) -> list[dict[str, Any]]:
    name = commit_name(version)
    try:
        actions = [json.loads(line) for line in directory.read(name).splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise FileNotFoundError(name) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(directory, f"{name} cannot be read ({error})") from error
    if not all(isinstance(action, dict) for action in actions):
        raise _damaged(directory, f"{name} is damaged")
    return actions


def _summary_of(directory: Directory, version: int, actions: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    for action in actions:
        summary = action.get("commitInfo", {}).get("imgcls")
        if isinstance(summary, dict) and isinstance(summary.get("through"), int):
            return summary
    raise _damaged(directory, f"{commit_name(version)} was written by another tool: nothing else may write this table")


def _from_checkpoint(directory: Directory, version: int) -> Log:
    name = checkpoint_name(version)
    try:
        actions = read_checkpoint(directory.read(name))
    except FileNotFoundError as error:
        raise FileNotFoundError(name) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(directory, f"{name} cannot be read ({' '.join(str(error).split())})") from error
    return _apply(Log(), version, actions)


def _apply(log: Log, version: int, actions: Iterable[Mapping[str, Any]]) -> Log:
    files, removed, table = dict(log.files), dict(log.removed), dict(log.table)
    for action in actions:
        if add := action.get("add"):
            files[add["path"]] = logged_file(add)
            removed.pop(add["path"], None)
        elif remove := action.get("remove"):
            files.pop(remove["path"], None)
            removed[remove["path"]] = int(remove.get("deletionTimestamp") or 0)
        for kind in ("protocol", "metaData"):
            if action.get(kind):
                table[kind] = action[kind]
    return Log(version, files, removed, log.summary, table)


def _without_swept(log: Log) -> Log:
    swept = log.summary.get("swept_ms", -1)
    return replace(log, removed={path: time for path, time in log.removed.items() if time > swept})


def commit(
    directory: Directory,
    log: Log,
    schema: pa.Schema,
    operation: str,
    *,
    added: Iterable[LoggedFile] = (),
    removed: Iterable[str] = (),
    is_new: bool = False,
    summary: Mapping[str, Any],
) -> Log | None:
    """Write the next version, in one step. ``None``: another writer has written one meanwhile.

    Args:
        directory: of the store.
        log: the version that this one follows.
        schema: of the rows.
        operation: for people who look at the table's history.
        added: files that count from now on.
        removed: files that do not any more.
        is_new: whether this adds rows; not so if the same rows move to other files.
        summary: about the store from now on.

    Raises:
        StorageError: it could not be written.
    """
    now_ms, version = time.time_ns() // 1_000_000, log.version + 1
    table = dict(log.table) or new_table(schema, now_ms)
    actions: list[dict[str, Any]] = [
        {
            "commitInfo": {
                "timestamp": now_ms,
                "operation": operation,
                "operationParameters": {},
                "engineInfo": "imgcls-ray",
                "imgcls": dict(summary),
            }
        }
    ]
    if not log.table:
        actions += [{kind: table[kind]} for kind in ("protocol", "metaData")]
    actions += [
        {"remove": {"path": path, "deletionTimestamp": now_ms, "dataChange": False}} for path in sorted(set(removed))
    ]
    actions += [{"add": add_action(file, is_new=is_new)} for file in added]
    data = "".join(json.dumps(action, ensure_ascii=False, separators=(",", ":")) + "\n" for action in actions)
    if not directory.create(commit_name(version), data.encode()):
        return None
    new = _without_swept(replace(_apply(replace(log, table=table), version, actions), summary=dict(summary)))
    if version % _COMMITS_PER_CHECKPOINT == 0 or len(actions) > _MANY_ACTIONS:
        _write_checkpoint(directory, new)
    return new


def _write_checkpoint(directory: Directory, log: Log) -> None:
    actions: list[dict[str, Any]] = [{kind: log.table[kind]} for kind in ("protocol", "metaData")]
    actions += [{"add": add_action(file, is_new=False)} for file in log.files.values()]
    actions += [
        {"remove": {"path": path, "deletionTimestamp": at, "dataChange": False}} for path, at in log.removed.items()
    ]
    directory.create(checkpoint_name(log.version), write_checkpoint(actions))
    directory.replace(_HINT, json.dumps({"version": log.version, "size": len(actions)}).encode())


def tombstones_since(directory: Directory, version: int, newest: int) -> set[str] | None:
    """Files that the commits behind a version removed; ``None`` if one of these commits is gone."""
    try:
        commits = in_parallel(directory, lambda v: _read_commit(directory, v), range(version + 1, newest + 1))
        return {action["remove"]["path"] for actions in commits for action in actions if "remove" in action}
    except FileNotFoundError:
        return None


def remove_old_checkpoints(directory: Directory, before_ms: float) -> int:
    """Remove checkpoints that nobody has read since a time: there is a newer one from before it.

    Commits stay for ever. If the name of one became free, a command that stood still for days could write it, and would
    take for a part of the log what nobody reads.

    Returns:
        The number of removed files.
    """
    _, checkpoints = _listed(directory, 0)
    # The last one may be younger than a command that still reads.
    for base in sorted(checkpoints)[-2::-1]:
        if _read_commit(directory, base)[0].get("commitInfo", {}).get("timestamp", before_ms) < before_ms:
            old = [checkpoint_name(version) for version in checkpoints if version < base]
            return sum(1 for _ in in_parallel(directory, directory.remove, old))
    return 0


def _damaged(directory: Directory, what: str) -> LabelStoreDamagedError:
    return LabelStoreDamagedError(f"{directory.uri}: {what}; bring back {LOG_FOLDER} from a copy")
