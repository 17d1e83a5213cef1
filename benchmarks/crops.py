"""What do boxes cost? ``imgcls predict`` on lists of the same pictures: whole, with one box each, and with several.

The boxes have between a third and two thirds of the picture's sides. Kinds take turns; the steady rate is as in
``benchmarks.ours``, in rows a second: pictures, or crops.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from collections.abc import Sequence


def write_list(path: Path, images: Sequence[Path], boxes: int) -> None:
    """A list of pictures, or of boxes of each, in shares of its sides."""
    source = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uri", "x1", "y1", "x2", "y2"] if boxes else ["uri"])
        for image in images:
            for _ in range(max(boxes, 1)):
                x1, y1 = source.uniform(0, 0.33), source.uniform(0, 0.33)
                width, height = source.uniform(0.33, 0.67), source.uniform(0.33, 0.67)
                writer.writerow([image, x1, y1, x1 + width, y1 + height] if boxes else [image])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crops", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, metavar="DIR", help="folder of JPEG files")
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("-n", type=int, default=2000, help="pictures [default: 2000]")
    parser.add_argument("--boxes", type=int, nargs="+", default=[1, 5], help="of each picture [default: 1 5]")
    parser.add_argument("--rounds", type=int, default=3, help="in each of which every kind has a turn [default: 3]")
    args = parser.parse_args()
    images = list_images(args.images)[: args.n]
    read_once(images)
    kinds = [0, *args.boxes]
    steady: dict[int, list[float]] = {boxes: [] for boxes in kinds}
    whole: dict[int, list[float]] = {boxes: [] for boxes in kinds}
    with isolated_environment() as environment, tempfile.TemporaryDirectory(prefix="imgcls-crops-") as temporary:
        keep_conversion(args.model, images[0], environment)
        for number in range(args.rounds):
            for boxes in kinds:
                source, store = Path(temporary, f"{boxes}.csv"), Path(temporary, f"store-{boxes}-{number}")
                write_list(source, images, boxes)
                start = time.perf_counter()
                job = imgcls("predict", source, "--boxes", "shares" if boxes else "none", "-m", args.model, "-o", store)
                subprocess.run(job, env=environment, stdout=subprocess.DEVNULL, check=True)
                seconds = time.perf_counter() - start
                parts = read_parts(store)
                num_rows = sum(part.num_rows for part in parts)
                if num_rows != len(images) * max(boxes, 1):
                    sys.exit(f"{num_rows:,} rows of {len(images):,} pictures with {boxes} boxes each")
                steady[boxes].append(steady_rate(parts))
                whole[boxes].append(num_rows / seconds)
                emit("crops", "round", steady[boxes][-1], "rows/s", boxes=boxes, job_s=round(seconds, 2))
    for boxes in kinds:
        about = {"pictures": len(images), "boxes": boxes, "model": args.model.name}
        pictures = [rate / max(boxes, 1) for rate in steady[boxes]]
        ratio = statistics.median(ours / theirs for ours, theirs in zip(pictures, steady[0], strict=True))
        emit("crops", "steady_rate", statistics.median(steady[boxes]), "rows/s", **about)
        emit("crops", "pictures", statistics.median(pictures), "pictures/s", to_whole=round(ratio, 3), **about)
        emit("crops", "whole_job_rate", statistics.median(whole[boxes]), "rows/s", **about)


if __name__ == "__main__":
    main()
