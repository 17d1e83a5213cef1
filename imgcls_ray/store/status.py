"""What is in a store, in a few requests, and its runs one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from imgcls_ray.store.delta_log import read_summary
from imgcls_ray.store.lease import lease_holder
from imgcls_ray.store.parallel import in_parallel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgcls_ray.json_files import Json
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.records import RunRecord

_DAY_S = 86_400


@dataclass(frozen=True)
class RunStatus:
    """One run."""

    run: int
    num_images: int
    num_done: int
    """Images that have their row."""
    record: RunRecord | None
    """``None``: the run is open."""

    def to_record(self) -> dict[str, Json]:
        """For a program that reads it."""
        known: dict[str, Json] = {"run": self.run, "num_images": self.num_images, "num_done": self.num_done}
        if self.record is None:
            return {**known, "state": "open"}
        more: dict[str, Json] = {"counts": dict(self.record["counts"]), "finished": self.record["finished"]}
        if (rate := self.record.get("images_per_s")) is not None:
            more["images_per_s"] = rate
        return {**known, "state": "finished", **more}


@dataclass
class StoreStatus:
    """What ``imgcls store status`` tells."""

    store: str
    model: str
    fingerprint: str
    num_runs: int = 0
    """Finished runs that labelled something."""
    num_rows: int = 0
    """Rows of finished runs, old answers included."""
    codes: Counter[str] = field(default_factory=Counter)
    """These rows per status."""
    num_files: int = 0
    num_bytes: int = 0
    newest_run: int | None = None
    """The newest run that labelled anything, also one that is open; ``None``: none has."""
    last_finished: str | None = None
    """When a run, also an empty one, ended last: ISO 8601."""
    images_per_day: float | None = None
    """At what rate images have arrived in the last runs that labelled any; ``None``: too few to tell."""
    cost_per_million_images: float | None = None
    """Of the newest run that was given a price; ``None``: none was."""
    open_runs: list[RunStatus] = field(default_factory=list)
    num_unlogged: int = 0
    """Finished runs that are not in the log yet; they are counted above, without their files."""
    holder: str | None = None
    """Who uses the store now."""

    def to_record(self) -> dict[str, Json]:
        """For a monitor."""
        names = ("store", "model", "fingerprint", "num_runs", "num_rows", "num_files", "num_bytes", "last_finished")
        record: dict[str, Json] = {name: getattr(self, name) for name in names}
        record["codes"] = dict(self.codes)
        record["images_per_day"] = self.images_per_day
        record["cost_per_million_images"] = self.cost_per_million_images
        record["open_runs"] = [run.to_record() for run in self.open_runs]
        record["in_use_by"] = self.holder
        return record


def read_status(store: LabelStore) -> StoreStatus:
    """What is in a store: some ten requests at any age, and those of the runs that are not in the log.

    Raises:
        LabelStoreDamagedError: the log, or the plan of an open run, is damaged.
    """
    log = read_summary(store.directory)
    summary = log.summary
    status = StoreStatus(
        store.uri,
        store.identity.model,
        store.identity.fingerprint,
        num_runs=summary.get("runs", 0),
        num_rows=summary.get("rows", 0),
        codes=Counter(summary.get("codes", {})),
        num_files=summary.get("files", 0),
        num_bytes=summary.get("bytes", 0),
        last_finished=summary.get("finished"),
        cost_per_million_images=summary.get("cost_per_million_images"),
        holder=lease_holder(store.directory),
    )
    recent: list[list[Any]] = list(summary.get("recent", ()))
    planned = store.planned_runs(log.through)
    finished = set(store.finished_runs(log.through, begun=planned))
    for run in in_parallel(store.directory, lambda run: _status_of(store, run, is_finished=run in finished), planned):
        if run.record is None:
            status.open_runs.append(run)
            continue
        status.num_unlogged += 1
        status.num_runs += bool(run.num_images)
        status.num_rows += run.num_images
        status.codes.update(run.record["counts"])
        status.last_finished = max(status.last_finished or "", run.record["finished"])
        status.cost_per_million_images = run.record.get("cost_per_million_images", status.cost_per_million_images)
        if run.num_images:
            recent.append([run.run, run.record["finished"], run.num_images])
    status.images_per_day = _images_per_day(recent)
    begun = [run.run for run in status.open_runs if run.num_done]
    status.newest_run = max([*begun, *(run[0] for run in recent)], default=None)
    return status


def all_runs(store: LabelStore) -> Iterator[RunStatus]:
    """Every run, ascending; reads all records.

    Raises:
        LabelStoreDamagedError: a record is damaged.
    """
    finished = set(store.finished_runs())
    runs = sorted({*finished, *store.planned_runs()})
    return in_parallel(store.directory, lambda run: _status_of(store, run, is_finished=run in finished), runs)


def _status_of(store: LabelStore, run: int, *, is_finished: bool) -> RunStatus:
    if is_finished:
        record = store.run_record(run)
        return RunStatus(run, record["num_images"], record["num_images"], record)
    answered = store.answered_units(run)
    num_done = sum(unit.num_rows for unit in store.units(run) if unit.number in answered)
    return RunStatus(run, store.plan_record(run)["num_images"], num_done, None)


def _images_per_day(recent: Sequence[Sequence[Any]]) -> float | None:
    """Images of runs over the time between the first and the last of them: those of the first came before."""
    try:
        times = [datetime.fromisoformat(run[1]) for run in recent]
        seconds = (times[-1] - times[0]).total_seconds()
    except (ValueError, TypeError, IndexError):
        return None
    if seconds <= 0:
        return None
    num_images: int = sum(run[2] for run in recent[1:])
    return round(num_images / seconds * _DAY_S, 1)
