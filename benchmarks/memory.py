"""Does memory grow with the number of images? The same job on 2,000 and on 20,000 files.

What is measured is each process's own memory (USS: what would be free if it ended), twice a second, for the driver and
for the workers that label. 20,000 names stand for the files of the folder, round and round: each is read, decoded and
labelled as a file of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from benchmarks.common import emit, imgcls, isolated_environment, keep_conversion, linked_images, list_images
from benchmarks.processes import unique_bytes, watched_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.processes import WatchedProcess

_INTERVAL_S = 0.5


class MemoryUse(NamedTuple):
    """Of one kind of process in one job, bytes."""

    peak: float
    """Of the largest process."""
    settled: float
    """Over the last half of each process's life, mean over processes."""


def memory_use(watched: Sequence[WatchedProcess]) -> MemoryUse:
    peaks = [process.peak_bytes for process in watched]
    return MemoryUse(max(peaks), statistics.fmean(process.settled_bytes for process in watched))


def measure_job(
    images: Sequence[Path], count: int, model: Path, work: Path | None
) -> dict[Literal["driver", "worker"], MemoryUse]:
    """Label ``count`` files under watch."""
    with (
        isolated_environment() as environment,
        linked_images(images, count, under=work) as folder,
        tempfile.TemporaryDirectory(prefix="imgcls-memory-", dir=work) as temporary,
    ):
        keep_conversion(model, images[0], environment)
        command = imgcls("predict", folder, "--model", model, "--output", f"{temporary}/store")
        with watched_job(command, environment, measure=unique_bytes, interval_s=_INTERVAL_S) as (job, watch):
            if exit_code := job.wait():
                sys.exit(f"imgcls predict: exit code {exit_code}")
    if not watch.of_kind("worker"):
        sys.exit(f"no worker was seen while {count:,} images were labelled; give more images")
    return {"driver": memory_use(watch.of_kind("driver")), "worker": memory_use(watch.of_kind("worker"))}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, metavar="DIR", help="folder of JPEG files")
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--counts", type=int, nargs=2, default=(2000, 20_000), help="[default: 2000 20000]")
    parser.add_argument("--work", type=Path, help="where links and store are made for a while [default: the system's]")
    args = parser.parse_args()
    images = list_images(args.images)
    few, many = (measure_job(images, count, args.model, args.work) for count in args.counts)
    for kind in ("driver", "worker"):
        for count, use in zip(args.counts, (few[kind], many[kind]), strict=True):
            emit("memory", f"{kind}_peak", use.peak / 1e6, "MB", images=count)
            emit("memory", f"{kind}_settled", use.settled / 1e6, "MB", images=count)
        about = {"images": list(args.counts)}
        emit("memory", f"{kind}_peak_growth", many[kind].peak / few[kind].peak, "ratio", **about)
        emit("memory", f"{kind}_settled_growth", many[kind].settled / few[kind].settled, "ratio", **about)


if __name__ == "__main__":
    main()
