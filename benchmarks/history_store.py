"""A store that is years old, made with the product's own code and no model: many runs of few images."""

from __future__ import annotations

import hashlib
import io
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import emit
from imgcls_ray.inputs.tables import table_of
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.files import FileInfo
from imgcls_ray.store.compact import compact_after_run
from imgcls_ray.store.delta_log import read_log
from imgcls_ray.store.history import commit_finished, pieces_of
from imgcls_ray.store.opening import create_or_open_store
from imgcls_ray.store.plan import Spool, unit_sizes, write_plan
from imgcls_ray.store.records import StoreIdentity, now

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.predict.report import RunReport
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.records import RunRecord
    from imgcls_ray.store.schema import Unit

_WHEN = datetime(2026, 1, 1, tzinfo=UTC)
_LABELS = [f"class {number}" for number in range(5)]
_ROW = {
    "status": "ok",
    "error": None,
    "label": _LABELS[0],
    "label_id": 0,
    "score": 0.5,
    "labels": _LABELS,
    "scores": [0.5, 0.2, 0.1, 0.1, 0.1],
    "width": 500,
    "height": 375,
}


def file_of(run: int, number: int, kind: str) -> FileInfo:
    """An input: names of a hash lie anywhere among those of earlier runs, others behind them."""
    digest = hashlib.md5(f"{run}-{number}".encode()).hexdigest()
    name = digest if kind == "hash" else f"{run:06d}/{number:08d}"
    return FileInfo(f"s3://a-bucket/images/{name}.jpg", 100_000, digest, _WHEN)


class NullJob:
    """Labels nothing: its rows are all alike."""

    def __init__(self, store: LabelStore) -> None:
        self._store = store

    def write_plan(self, planned: Spool, run: int) -> None:
        sizes = unit_sizes(planned.num_images, num_workers=2, smallest=256, largest=2048, batch_size=32)
        write_plan(self._store, planned, run=run, sizes=sizes, about={"input": "x"})

    def label_units(self, units: list[Unit], report: RunReport) -> set[int]:
        for unit in units:
            write_part(self._store, unit)
        report.codes["ok"] += sum(unit.num_rows for unit in units)
        return set()

    def describe_run(self, report: RunReport) -> RunRecord:
        return {
            "run": report.run,
            "num_images": report.num_images,
            "counts": dict(report.codes),
            "images_per_s": 1.0,
            "finished": now(),
        }


def write_part(store: LabelStore, unit: Unit) -> None:
    rows = store.read_unit(unit)
    count = rows.num_rows
    table = rows.select(["image_id", "uri", "etag"])
    for name, value in _ROW.items():
        table = table.append_column(name, pa.repeat(pa.scalar(value, store.schema.field(name).type), count))
    table = table.select(store.schema.names).cast(store.schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    store.directory.create(unit.part_name, buffer.getvalue())


def make(uri: str, list_path: Path, *, runs: int, rows: int, kind: str, commit_every: int) -> None:
    """The store, and a list of all its inputs."""
    os.fsync = lambda _: None  # type: ignore[assignment]
    identity = StoreIdentity(model="none", fingerprint="0" * 64, num_classes=5, top_k=5, embedding=False, logits=False)
    store = create_or_open_store(open_directory(uri), identity)
    job, start = NullJob(store), time.monotonic()
    schema = pa.schema({"uri": pa.string(), "size": pa.int64(), "etag": pa.string()})
    with pq.ParquetWriter(list_path, schema) as listing:
        for run in range(1, runs + 1):
            files = sorted(file_of(run, number, kind) for number in range(rows))
            with Spool() as spool:
                for first in range(0, len(files), 4096):
                    spool.add(table_of(files[first : first + 4096]))
                spool.complete()
                job.write_plan(spool, run)
            for unit in store.units(run):
                write_part(store, unit)
            store.finish_run(
                run,
                {"run": run, "num_images": rows, "counts": {"ok": rows}, "images_per_s": 1.0, "finished": now()},
            )
            if run % commit_every == 0:
                commit_finished(store)
            if run % (8 * commit_every) == 0:
                compact_after_run(store, 60.0)
            columns = [[getattr(file, name) for file in files] for name in schema.names]
            listing.write_table(pa.table(columns, schema=schema))
    commit_finished(store)
    compact_after_run(store, 60.0)
    log = read_log(store.directory)
    emit(
        "history",
        "made",
        time.monotonic() - start,
        "s",
        runs=runs,
        rows=runs * rows,
        files=len(log.files),
        pieces=len(pieces_of(log)),
        commits=log.version + 1,
    )
