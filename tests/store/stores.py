"""Label stores from a few lines each: real plans, and parts as workers write them, without a model or Ray."""

from __future__ import annotations

import io
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.inputs.listing import list_inputs
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.files import FileInfo
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.storage.names import DEFAULT_NAMES
from imgcls_ray.store.history import commit_finished
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import create_or_open_store
from imgcls_ray.store.plan import PlanCounts, unanswered, write_plan
from imgcls_ray.store.planner import plan_ahead
from imgcls_ray.store.presence_changes import PresenceChanges
from imgcls_ray.store.records import StoreIdentity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from imgcls_ray.storage.names import NameRules
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.plan import Spool
    from imgcls_ray.store.records import RunRecord
    from imgcls_ray.store.schema import Unit
    from imgcls_ray.store.values import ValueChanges

FINGERPRINT = "f" * 64
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def identity(**changes: Any) -> StoreIdentity:
    content = {
        "model": "small",
        "fingerprint": FINGERPRINT,
        "num_classes": 7,
        "top_k": 2,
        "embedding": False,
        "logits": False,
    }
    return StoreIdentity.model_validate({**content, **changes})


def new_store(folder: Path, **changes: Any) -> LabelStore:
    return create_or_open_store(open_directory(str(folder)), identity(**changes))


def info(uri: str, etag: str | None = "v1") -> FileInfo:
    return FileInfo(uri, 100, etag, NEW_YEAR)


def infos(count: int, *, etag: str | None = "v1", step: int = 1, first: int = 0) -> Iterator[FileInfo]:
    """Inputs in the order of their URIs."""
    return (info(f"/in/{i:08d}.jpg", etag) for i in range(first, first + count * step, step))


@contextmanager
def spool(files: Iterable[FileInfo], *, limit: int | None = None) -> Iterator[Spool]:
    """The one plan of a short listing."""
    with plan_ahead(files, limit=limit) as plans:
        yield next(plans)


def even_sizes(num_images: int, unit_size: int) -> list[int]:
    """Units of one size; the last is what is left."""
    return [min(unit_size, num_images - first) for first in range(0, num_images, unit_size)]


def plan(store: LabelStore, files: Iterable[FileInfo], *, unit_size: int = 16, **about: Any) -> int:
    """Plan the next run; units hold ``unit_size`` inputs. Returns its number."""
    run = store.next_run()
    with spool(files) as planned:
        write_plan(
            store,
            planned,
            run=run,
            sizes=even_sizes(planned.num_images, unit_size),
            about={"input": "/in", **about},
        )
    return run


def run_record(run: int, **changes: Any) -> RunRecord:
    """What a finished run leaves, as far as readers need it."""
    needed = {"num_images": 0, "counts": {}, "images_per_s": 0.0, "finished": "2026-01-01T00:00:00+00:00"}
    record: Any = {"run": run, **needed, **changes}
    return record  # type: ignore[no-any-return]


def rows_of(store: LabelStore, unit: Unit, errors: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """The rows of a unit's part: each label names its run and input, so that a mixed-up row shows."""
    return [
        failed_row(row, errors[row["uri"]]) if errors and row["uri"] in errors else good_row(row, unit.run)
        for row in store.read_unit(unit).select(["image_id", "uri", "etag"]).to_pylist()
    ]


def good_row(planned: Mapping[str, Any], run: int) -> dict[str, Any]:
    label = f"{run}:{planned['uri']}"
    best = {"label": label, "label_id": 3, "score": 0.75, "labels": [label, "other"], "scores": [0.75, 0.25]}
    return {**planned, "status": "ok", "error": None, **best, "width": 64, "height": 48}


def failed_row(planned: Mapping[str, Any], code: str) -> dict[str, Any]:
    names = ("label", "label_id", "score", "labels", "scores", "width", "height")
    return {**planned, "status": "error", "error": code, **dict.fromkeys(names)}


def part_bytes(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def answer_unit(store: LabelStore, unit: Unit, errors: Mapping[str, str] | None = None) -> None:
    assert store.directory.create(unit.part_name, part_bytes(rows_of(store, unit, errors), store.schema))


def answer(store: LabelStore, run: int, errors: Mapping[str, str] | None = None, *, finish: bool = True) -> None:
    """Label a planned run; ``errors`` holds the codes of the inputs that fail."""
    for unit in store.units(run):
        answer_unit(store, unit, errors)
    if finish:
        store.finish_run(run, run_record(run))


def label(store: LabelStore, files: Iterable[FileInfo], errors: Mapping[str, str] | None = None) -> int:
    """Plan a run and label it. Returns its number."""
    run = plan(store, files)
    answer(store, run, errors)
    return run


def list_and_label(
    store: LabelStore,
    *sources: object,
    names: NameRules = DEFAULT_NAMES,
    limit: int | None = None,
    is_empty_trusted: bool = False,
    errors: Mapping[str, str] | None = None,
    values: ValueChanges | None = None,
) -> PresenceChanges:
    """What a command does: list INPUTs, plan what has no row, label it. Returns what the listing found changed."""
    commit_finished(store)
    counts = ListingCounts()
    presence = PresenceChanges(counts, is_empty_trusted=is_empty_trusted)
    kept = values.kept if values is not None else None
    files = list_inputs([str(source) for source in sources], counts, leave_out=store.uri, names=names, kept=kept)
    planned_files = unanswered(files, store, PlanCounts(), presence=presence, values=values)
    with plan_ahead(planned_files, limit=limit, presence=presence, values=values) as plans:
        for planned in plans:
            run = store.next_run()
            write_plan(store, planned, run=run, sizes=even_sizes(planned.num_images, 16), about={"input": "/in"})
            answer(store, run, errors)
    commit_finished(store)
    return presence


def present_of(store: LabelStore) -> dict[str, bool]:
    """Names of the inputs, and whether each is told as present."""
    rows = [row for table in latest_rows(store) for row in table.to_pylist()]
    return {row["uri"].rpartition("/")[2]: row["present"] for row in rows}
