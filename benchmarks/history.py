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
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from benchmarks.common import emit
from benchmarks.counting import Counting
from benchmarks.history_store import NullJob, file_of, make
from imgcls_ray.inputs.listing import ListingCounts, list_inputs
from imgcls_ray.inputs.tables import table_of, tables_of
from imgcls_ray.predict.report import PredictReport
from imgcls_ray.predict.runs import work_off
from imgcls_ray.storage import open_directory
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.plan import PlanCounts, unanswered
from imgcls_ray.store.planner import plan_ahead
from imgcls_ray.store.status import read_status
from imgcls_ray.store.verify import verify_store
from tests.s3.proxy import Faults, s3_proxy
from tests.s3.server import s3_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.store.label_store import LabelStore

_BUCKET = "history"
_MEASURES = ("list", "noop", "new100", "one", "status", "latest", "verify")


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
        if args.storage:
            server = stack.enter_context(s3_server(temporary / "s3"))
            server.client().create_bucket(Bucket=_BUCKET)
            uri = f"s3://{_BUCKET}/store"
            os.environ |= {
                "AWS_ACCESS_KEY_ID": server.access_key,
                "AWS_SECRET_ACCESS_KEY": server.secret_key,
                "AWS_ENDPOINT_URL": server.endpoint_url,
            }
        list_path = temporary / "list.parquet"
        if args.storage or not (temporary / "store").exists():
            make(uri, list_path, runs=args.runs, rows=args.rows, kind=args.names, commit_every=args.commit_every)
        if args.storage:
            proxy = stack.enter_context(s3_proxy(server.endpoint_url, Faults(get_delay_s=0.03, list_delay_s=0.05)))
            environment = {**os.environ, "AWS_ENDPOINT_URL": proxy.endpoint_url}
        for what in args.only or _MEASURES:
            command = [sys.executable, "-m", "benchmarks.history", "--measure", what, uri, str(list_path)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            print(json.dumps({"runs": args.runs, **json.loads(done.stdout)}), flush=True)


if __name__ == "__main__":
    main()
