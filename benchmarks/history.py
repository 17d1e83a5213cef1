"""What a store costs that is years old: many runs of few images, made with the product's own code and no model.

Makes the store (plans, parts, records, commits and merges are the product's; only the syncing of files is left out),
then measures each in a process of its own: reading the list of all inputs, a run with that list and nothing new, the
planning of that list and one of 100 new images, the planning of a list of one, ``status``, ``latest`` and ``verify``.
One JSON line each: seconds, requests, peak memory.

``--s3`` makes the store on the tests' S3 server, behind 30 ms for each GET and 50 ms for each LIST.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import emit
from imgcls_ray.inputs.listing import ListingCounts, list_inputs
from imgcls_ray.inputs.tables import table_of, tables_of
from imgcls_ray.predict.report import PredictReport
from imgcls_ray.predict.runs import work_off
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.files import FileInfo
from imgcls_ray.store.compact import compact_after_run
from imgcls_ray.store.delta_log import read_log
from imgcls_ray.store.history import commit_finished, pieces_of
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import create_or_open_store, open_store
from imgcls_ray.store.plan import PlanCounts, Spool, unanswered, unit_sizes, write_plan
from imgcls_ray.store.planner import plan_ahead
from imgcls_ray.store.records import StoreIdentity, now
from imgcls_ray.store.status import read_status
from imgcls_ray.store.verify import verify_store
from tests.s3.proxy import Faults, s3_proxy
from tests.s3.server import s3_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from imgcls_ray.predict.report import RunReport
    from imgcls_ray.storage import Directory
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.records import RunRecord
    from imgcls_ray.store.schema import Unit

_WHEN = datetime(2026, 1, 1, tzinfo=UTC)
_BUCKET = "history"
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
# As S3Directory reads: the end of a file comes with the request that opens it.
_TAIL_BYTES = 2**20
_MEASURES = ("list", "noop", "new100", "one", "status", "latest", "verify")


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


class Counting:
    """A store's place that counts what it is asked for, as requests to S3."""

    def __init__(self, inner: Directory) -> None:
        self._inner, self.uri, self.requests = inner, inner.uri, Counter[str]()
        self._lock = threading.Lock()

    def count(self, kind: str, number: int = 1) -> None:
        # Many threads ask at once, and an addition is not one step.
        with self._lock:
            self.requests[kind] += number

    def entries(self, folder: str = "", *, starts_with: str = "") -> Iterator[str]:
        names = list(self._inner.entries(folder, starts_with=starts_with))
        self.count("list", max(1, -(-len(names) // 1000)))
        return iter(names)

    def open(self, name: str) -> BinaryIO:
        file = self._inner.open(name)
        self.count("get")
        return _CountedFile(file, self.count)  # type: ignore[return-value]

    def read(self, name: str) -> bytes:
        self.count("get")
        return self._inner.read(name)

    def exists(self, name: str) -> bool:
        self.count("head")
        return self._inner.exists(name)

    def create(self, name: str, data: bytes) -> bool:
        self.count("put")
        return self._inner.create(name, data)

    def replace(self, name: str, data: bytes) -> None:
        self.count("put")
        self._inner.replace(name, data)

    def replace_from(self, name: str, path: str) -> None:
        self.count("put")
        self._inner.replace_from(name, path)

    def remove(self, name: str) -> None:
        self.count("delete")
        self._inner.remove(name)


class _CountedFile(io.RawIOBase):
    def __init__(self, file: BinaryIO, count: Callable[[str], None]) -> None:
        self._file, self._count = file, count
        self._size = file.seek(0, 2)
        file.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        if self._file.tell() < self._size - _TAIL_BYTES:
            self._count("get")
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()
        super().close()


def measure(what: str, uri: str, list_path: Path) -> None:
    """One measurement, in this process."""
    directory = Counting(open_directory(uri))
    before = _peak_mb()
    start, cpu = time.monotonic(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        found = _RUN[what](open_store(directory), list_path)
    emit(
        "history",
        what,
        time.monotonic() - start,
        "s",
        requests=directory.requests.total(),
        cpu_s=round(time.process_time() - cpu, 2),
        kinds=dict(directory.requests),
        peak_mb=_peak_mb(),
        peak_mb_before=before,
        **found,
    )


def _peak_mb() -> int:
    # Not of getrusage, which begins with the peak of the process that started this one.
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) // 1024


def _list(_: LabelStore, list_path: Path) -> dict[str, Any]:
    return {"inputs": sum(table.num_rows for table in tables_of(list_inputs(str(list_path), ListingCounts())))}


def _noop(store: LabelStore, list_path: Path) -> dict[str, Any]:
    counts, start = PlanCounts(), time.monotonic()
    files = list_inputs(str(list_path), ListingCounts())
    work_off(
        store,
        NullJob(store),
        lambda limit: plan_ahead(unanswered(files, store, counts), limit=limit),
        PredictReport(""),
    )
    assert counts.answered == counts.listed
    return {"inputs": counts.listed, "inputs_per_s": round(counts.listed / (time.monotonic() - start))}


def _new100(store: LabelStore, list_path: Path) -> dict[str, Any]:
    new = list_path.with_name("new.parquet")
    pq.write_table(table_of(sorted(file_of(10**6, number, "hash") for number in range(100))), new)
    counts = PlanCounts()
    for _ in tables_of(unanswered(list_inputs([str(list_path), str(new)], ListingCounts()), store, counts)):
        pass
    return {"inputs": counts.listed, "new": counts.new}


def _one(store: LabelStore, _: Path) -> dict[str, Any]:
    counts = PlanCounts()
    return {"new": sum(1 for _ in unanswered([file_of(10**6, 0, "hash")], store, counts))}


def _status(store: LabelStore, _: Path) -> dict[str, Any]:
    return {"rows": read_status(store).num_rows}


def _latest(store: LabelStore, _: Path) -> dict[str, Any]:
    return {"rows": sum(table.num_rows for table in latest_rows(store))}


def _verify(store: LabelStore, _: Path) -> dict[str, Any]:
    report = verify_store(store)
    return {"rows": report.num_rows, "sound": report.is_sound}


_RUN: dict[str, Callable[[LabelStore, Path], dict[str, Any]]] = {
    "list": _list,
    "noop": _noop,
    "new100": _new100,
    "one": _one,
    "status": _status,
    "latest": _latest,
    "verify": _verify,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=250, help="of the store [default: 250]")
    parser.add_argument("--rows", type=int, default=100, help="images of a run [default: 100]")
    parser.add_argument("--names", choices=("hash", "dated"), default="hash", help="of the images [default: hash]")
    parser.add_argument("--commit-every", type=int, default=1, help="runs, which is faster to make [default: 1]")
    parser.add_argument("--s3", action="store_true", help="on the tests' S3 server")
    parser.add_argument("--folder", type=Path, help="keep the store here, or measure the one that is here")
    parser.add_argument("--only", choices=_MEASURES, action="append", help="measure this alone; may be repeated")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure[0], args.measure[1], Path(args.measure[2]))
        return
    with ExitStack() as stack:
        temporary = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ih-")))
        temporary.mkdir(parents=True, exist_ok=True)
        uri, environment = str(temporary / "store"), dict(os.environ)
        if args.s3:
            server = stack.enter_context(s3_server(temporary / "s3"))
            server.client().create_bucket(Bucket=_BUCKET)
            uri = f"s3://{_BUCKET}/store"
            os.environ |= {
                "AWS_ACCESS_KEY_ID": server.access_key,
                "AWS_SECRET_ACCESS_KEY": server.secret_key,
                "AWS_ENDPOINT_URL": server.endpoint_url,
            }
        list_path = temporary / "list.parquet"
        if args.s3 or not (temporary / "store").exists():
            make(uri, list_path, runs=args.runs, rows=args.rows, kind=args.names, commit_every=args.commit_every)
        if args.s3:
            proxy = stack.enter_context(s3_proxy(server.endpoint_url, Faults(get_delay_s=0.03, list_delay_s=0.05)))
            environment = {**os.environ, "AWS_ENDPOINT_URL": proxy.endpoint_url}
        for what in args.only or _MEASURES:
            command = [sys.executable, "-m", "benchmarks.history", "--measure", what, uri, str(list_path)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            print(json.dumps({"runs": args.runs, **json.loads(done.stdout)}), flush=True)


if __name__ == "__main__":
    main()
