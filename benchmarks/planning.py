"""Does the driver's memory grow with the number of inputs? Listing, planning and labelling without any work.

The job is ``imgcls predict`` on a generated list, with workers that neither fetch nor decode nor classify: they read
their unit of the plan and write a part with a row for each input. Then the same command again, which compares the list
with all rows and finds nothing to do. What is measured is the driver's own memory (USS), four times a second, and the
time from the start of the command to the complete plan. ``--columns`` adds lists with other columns, which are kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import emit, imgcls, isolated_environment
from benchmarks.processes import unique_bytes, watched_job
from imgcls_ray.models.classifier import Prediction, StageSeconds
from imgcls_ray.predict.label import LabelWork, unit_of
from imgcls_ray.store.parts import commit_unit

if TYPE_CHECKING:
    from imgcls_ray.errors import ImageError
    from imgcls_ray.predict.label import LabelTask

_ROWS_PER_GROUP = 100_000


class NullWork(LabelWork):
    """Stands in for ``LabelWork``: rows without labelling."""

    def __init__(self, task: LabelTask, *, num_threads: int, num_cores: int) -> None:
        del num_threads, num_cores  # of a network that is not there
        self._store = task.open_store()
        self._class_names = task.open_model().spec.class_names
        ids, scores = np.zeros(1, dtype=np.int32), np.ones(1, dtype=np.float32)
        self._prediction = Prediction(1, 1, ids, scores)

    def done_before(self, content: pa.Table) -> pa.Table:
        rows = self._store.read_unit(unit := unit_of(content))
        results: list[Prediction | ImageError] = [self._prediction] * rows.num_rows
        return commit_unit(self._store, self._class_names, unit, rows, results, StageSeconds(), {}, "fp32").to_table()


def write_list(path: Path, count: int, num_columns: int, *, boxes: int = 0) -> None:
    """A list of objects that nobody ever reads, in no particular order, of 200 to 300 bytes each.

    With ``boxes``, each object has so many rows, with a box in each.
    """
    rng = np.random.default_rng(0)
    others = {f"column{i}": (pa.string(), pa.int64(), pa.float64())[i % 3] for i in range(num_columns)}
    others |= {name: pa.int64() for name in ("x1", "y1", "x2", "y2") if boxes}
    schema = pa.schema({"uri": pa.string(), "size": pa.int64(), "etag": pa.string(), **others})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, _ROWS_PER_GROUP):
            numbers = rng.permutation(np.arange(start, min(start + _ROWS_PER_GROUP, count)))
            of_objects = numbers // max(boxes, 1)
            uris = [
                f"s3://a-bucket-of-some-name/photos/{i % 1000:03d}/{i * 7919 % 10**9:09d}-{i:09d}.jpg"
                for i in of_objects
            ]
            etags = [f"{i:032x}" for i in of_objects]
            kinds = ([f"SKU-{i:09d}" for i in numbers], numbers % 97, rng.random(len(numbers)))
            values = [kinds[i % 3] for i in range(num_columns)]
            values += [numbers % 501, numbers % 301, numbers % 501 + 100, numbers % 301 + 100] if boxes else []
            writer.write_table(pa.table([uris, np.full(len(uris), 100_000), etags, *values], schema=schema))


def run_job(input: str, model: str, output: str) -> None:
    """The command, with other workers; to be called in a process of its own."""
    from unittest import mock

    # By the name that worker processes find it by: they are not this program.
    from benchmarks.planning import NullWork
    from imgcls_ray.cli import leave_with, log_to_stderr
    from imgcls_ray.commands import predict

    def run() -> None:
        log_to_stderr()
        with mock.patch("imgcls_ray.predict.units.LabelWork", NullWork):
            predict.run(None, [], {"input": input, "model": model, "output": output})

    leave_with(run)


def measure(source: Path, model: Path, store: Path, environment: dict[str, str]) -> tuple[int, float]:
    """Peak of the driver's memory in one job, bytes; and seconds until its plan was complete."""
    start = time.time()
    command = [sys.executable, "-m", "benchmarks.planning", "--job", str(source), str(model), str(store)]
    with watched_job(command, environment, measure=unique_bytes, interval_s=0.25) as (job, watch):
        if exit_code := job.wait():
            sys.exit(f"the job ended with exit code {exit_code}")
    [driver] = watch.of_kind("driver")
    return driver.peak_bytes, max(path.stat().st_mtime for path in store.glob("plans/*.json")) - start


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--counts", type=int, nargs=2, default=(200_000, 2_000_000), help="inputs [default: 200000 2000000]"
    )
    parser.add_argument(
        "--columns", type=int, default=0, help="other columns; lists without them are measured, too [default: 0]"
    )
    parser.add_argument("--job", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        run_job(*args.job)
    with isolated_environment() as environment, tempfile.TemporaryDirectory(prefix="imgcls-planning-") as temporary:
        model = Path(temporary, "model")
        new = imgcls("models", "new", "PP-LCNet_x0_25", "--num-classes", "10", "--random", "--output", model)
        with watched_job(new, environment) as (job, _):
            job.wait()
        for columns in sorted({0, args.columns}):
            peaks: dict[str, list[int]] = {"labelling": [], "nothing_to_do": []}
            for count in args.counts:
                source, store = Path(temporary, f"{count}.parquet"), Path(temporary, f"store-{columns}-{count}")
                write_list(source, count, columns)
                for kind, values in peaks.items():
                    peak, seconds = measure(source, model, store, environment)
                    values.append(peak)
                    emit("planning", f"driver_peak_{kind}", peak / 1e6, "MB", inputs=count, columns=columns)
                    emit("planning", f"until_plan_{kind}", seconds, "s", inputs=count, columns=columns)
            few, many = args.counts
            for kind, (less, more) in peaks.items():
                growth = (more - less) / (many - few)
                emit("planning", f"driver_growth_{kind}", growth, "bytes/input", inputs=[few, many], columns=columns)


if __name__ == "__main__":
    main()
