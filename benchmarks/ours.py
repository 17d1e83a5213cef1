"""``imgcls predict`` as its users run it: steady rate, whole-job rate, time to the first durable labels, memory.

The real command in a process of its own; times are read from the part files that it leaves. The steady rate counts the
images after the first 1,000 (after a fifth of a smaller job) by the times at which their parts were written; the
whole job counts from the command's start to its exit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import (
    emit,
    imgcls,
    isolated_environment,
    keep_conversion,
    list_images,
    read_once,
    read_parts,
    steady_rate,
)
from benchmarks.processes import watched_job


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ours", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, metavar="DIR", help="folder of JPEG files")
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--cold", action="store_true", help="without the engine's conversion kept from an earlier run")
    parser.add_argument("--on", choices=("auto", "local", "ray"), default="auto", help="[default: auto]")
    parser.add_argument("--work", type=Path, help="where the store is made for a while [default: the system's]")
    args = parser.parse_args()
    images = list_images(args.images)
    read_once(images)
    with (
        isolated_environment() as environment,
        tempfile.TemporaryDirectory(prefix="imgcls-ours-", dir=args.work) as temporary,
    ):
        if not args.cold:
            keep_conversion(args.model, images[0], environment)
        store = Path(temporary, "store")
        command = imgcls("predict", args.images, "--model", args.model, "--output", store, "--on", args.on)
        start, wall_start = time.perf_counter(), time.time()
        with watched_job(command, environment) as (job, watch):
            exit_code = job.wait()
            seconds = time.perf_counter() - start
        parts = read_parts(store)
    num_rows = sum(part.num_rows for part in parts)
    if exit_code or num_rows != len(images):
        sys.exit(f"imgcls predict: exit code {exit_code}, {num_rows:,} rows for {len(images):,} images")
    about = {"model": args.model.name, "images": num_rows, "on": args.on, "conversion": "made" if args.cold else "kept"}
    emit("ours", "steady_rate", steady_rate(parts), "images/s", **about)
    emit("ours", "whole_job_rate", num_rows / seconds, "images/s", **about)
    emit("ours", "first_part", parts[0].time - wall_start, "s", **about)
    emit("ours", "whole_job", seconds, "s", exit_code=exit_code, **about)
    for kind in ("driver", "worker"):
        peak = max((watched.peak_bytes for watched in watch.of_kind(kind)), default=0)
        emit("ours", f"{kind}_peak_rss", peak / 1e6, "MB", **about)


if __name__ == "__main__":
    main()
