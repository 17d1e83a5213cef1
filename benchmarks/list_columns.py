"""What do other columns of a list, or boxes, cost? Planning of one list with these or without, in this process."""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.common import emit
from benchmarks.planning import write_list
from imgcls_ray.inputs.kept import Kept
from imgcls_ray.inputs.listing import ListingCounts, list_inputs
from imgcls_ray.storage import open_directory
from imgcls_ray.store.opening import create_or_open_store
from imgcls_ray.store.plan import PlanCounts, unanswered, write_plan
from imgcls_ray.store.planner import plan_ahead
from imgcls_ray.store.records import StoreIdentity
from imgcls_ray.store.values import ValueChanges

_UNIT = 2048


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.list_columns", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs [default: 1000000]")
    parser.add_argument("--columns", type=int, default=3, help="other columns [default: 3]")
    parser.add_argument("--boxes", type=int, default=0, help="of each image, a row for each [default: 0, no boxes]")
    args = parser.parse_args()
    about = {"inputs": args.count, "columns": args.columns, "boxes": args.boxes}
    with tempfile.TemporaryDirectory(prefix="imgcls-columns-") as temporary:
        source = Path(temporary, "list.parquet")
        write_list(source, args.count, args.columns, boxes=args.boxes)
        identity = StoreIdentity(
            model="none", fingerprint="f" * 64, num_classes=2, top_k=1, embedding=False, logits=False
        )
        store = create_or_open_store(open_directory(f"{temporary}/store"), identity)
        start, cpu = time.monotonic(), time.process_time()
        kept = Kept(boxes="pixels" if args.boxes else "none")
        files, values = list_inputs(str(source), ListingCounts(), kept=kept), ValueChanges(kept)
        with plan_ahead(unanswered(files, store, PlanCounts(), values=values), values=values) as plans:
            for run, planned in enumerate(plans, 1):
                whole, rest = divmod(planned.num_images, _UNIT)
                write_plan(store, planned, run=run, sizes=[_UNIT] * whole + [rest] * bool(rest), about={})
        emit("list_columns", "planning", time.monotonic() - start, "s", **about)
        emit("list_columns", "planning_cpu", time.process_time() - cpu, "s", **about)
    emit("list_columns", "peak_memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, "MB", **about)


if __name__ == "__main__":
    main()
