"""Checking a dataset: rate beside bare decoding, and memory.

    python -m benchmarks.check rate IMAGES    # a folder of distinct JPEG files, as benchmarks.make_images makes them
    python -m benchmarks.check memory         # 2,000 and 20,000 small drawn images

`rate` decodes the images with nothing but the decoder in one process a core, checks them through ``check_dataset``, and
decodes them bare again: the machine's drift shows. The rate of the check is that of its running workers, some seconds
after the first block. `memory` gives the peak of the driver's and of a worker's own memory (USS).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.common import emit, imgcls, isolated_environment
from benchmarks.processes import unique_bytes, watched_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.processes import Kind

_NUM_MEMORY = (2_000, 20_000)
# Each file stands in the lists so many times, under other names: the whole takes long enough to be steady.
_ROUNDS = 4
_WARM_UP_S = 4.0
_INTERVAL_S = 0.5


def write_lists(root: Path, names: Sequence[str]) -> None:
    """Lists over images in the folder; one in ten validates."""
    lines = [f"{name} {i // 10 % 10}" for i, name in enumerate(names)]
    (root / "train.txt").write_text("\n".join(line for i, line in enumerate(lines) if i % 10))
    (root / "val.txt").write_text("\n".join(line for i, line in enumerate(lines) if not i % 10))
    (root / "label.txt").write_text("\n".join(f"{label} class {label}" for label in range(10)))


def draw_images(root: Path, count: int) -> list[str]:
    """Small JPEG files like no other."""
    for i in range(count):
        coarse = np.random.default_rng(i).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((96, 72)).save(root / f"{i:06d}.jpg", quality=85)
    return [f"{i:06d}.jpg" for i in range(count)]


def _files(images: Path) -> list[Path]:
    return sorted(path for path in images.resolve().rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))


def decode_bare(paths: list[str]) -> float:
    """Seconds of one process to read and decode files with nothing else around it."""
    from imgcls_ray.images.decoder import decode_image

    for path in paths[:20]:
        decode_image(Path(path).read_bytes())
    start = time.perf_counter()
    for path in paths:
        decode_image(Path(path).read_bytes())
    return time.perf_counter() - start


def bare_rate(images: Path, num_processes: int) -> float:
    """Images a second of one process a core."""
    files = [str(path) for path in _files(images)]
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        seconds = pool.map(decode_bare, [files[i::num_processes] for i in range(num_processes)], chunksize=1)
    return sum(len(files[i::num_processes]) / spent for i, spent in enumerate(seconds))


def check_rate(images: Path) -> tuple[float, float]:
    """Images a second from the first block to the last, and of the whole check."""
    from imgcls_ray.config import CheckConfig
    from imgcls_ray.datasets.check import check_dataset

    done: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory(dir=images.parent) as folder:
        files = _files(images)
        names = [f"{i:06d}.jpg" for i in range(_ROUNDS * len(files))]
        for i, name in enumerate(names):
            os.link(files[i % len(files)], Path(folder, name))
        write_lists(Path(folder), names)
        start = time.monotonic()
        result = check_dataset(CheckConfig(data=folder), lambda more: done.append((time.monotonic(), more)))
        seconds = time.monotonic() - start
    if sum(result.sizes.values()) < len(names):
        sys.exit(f"{len(names) - sum(result.sizes.values())} images could not be decoded")
    print({str(code): number for code, number in result.num_findings.items()}, file=sys.stderr)
    # Ray goes on starting processes of its own for some seconds after the first images.
    warm = next(place for place, (moment, _) in enumerate(done) if moment >= done[0][0] + _WARM_UP_S)
    steady = sum(more for _, more in done[warm + 1 :]) / (done[-1][0] - done[warm][0])
    return steady, len(names) / seconds


def rate(images: Path) -> None:
    cores = os.cpu_count() or 1
    before = bare_rate(images, cores)
    steady, whole = check_rate(images)
    after = bare_rate(images, cores)
    emit("check", "bare_decode", before, "images/s", cores=cores)
    emit("check", "check_steady", steady, "images/s", cores=cores)
    emit("check", "check_whole", whole, "images/s", cores=cores)
    emit("check", "bare_decode_again", after, "images/s", cores=cores)
    emit("check", "steady_of_bare", steady / ((before + after) / 2), "share", cores=cores)


def memory() -> None:
    for count in _NUM_MEMORY:
        with isolated_environment() as environment, tempfile.TemporaryDirectory() as folder:
            write_lists(Path(folder), draw_images(Path(folder), count))
            command = imgcls("check", folder, "--output", f"{folder}/out")
            with watched_job(command, environment, measure=unique_bytes, interval_s=_INTERVAL_S) as (job, watch):
                if exit_code := job.wait():
                    sys.exit(f"imgcls check: exit code {exit_code}")
            kinds: tuple[Kind, ...] = ("driver", "worker")
            for kind in kinds:
                peak = max(process.peak_bytes for process in watch.of_kind(kind))
                emit("check", f"memory_{kind}", peak / 2**20, "MiB", images=count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=("rate", "memory"))
    parser.add_argument("images", type=Path, nargs="?", metavar="IMAGES")
    arguments = parser.parse_args()
    if arguments.figure == "memory":
        memory()
    elif arguments.images is None:
        parser.error("rate needs IMAGES")
    else:
        rate(arguments.images)


if __name__ == "__main__":
    main()
