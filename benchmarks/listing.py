"""What does a listing cost, and a list, compared with another version of the package? In alternating runs.

A folder of empty files with names of images is listed, as it is and with as many pieces of litter between them
(``Thumbs.db``, ``*.xmp``, ``@eaDir/``, ...); then generated lists of objects are read. Each run is a process of its
own, whose imports and first listing do not count. What is compared is the smallest CPU time of each version: nothing
here waits, and other programs disturb it less than the time on the wall.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import emit

_LITTER = ("Thumbs.db", "desktop.ini", "@eaDir/{}/SYNOPHOTO_THUMB_M.jpg", "{}.xmp", "{}.MOV", "._{}.jpg", "{}.AAE")
_IMAGES_PER_FOLDER = 500
# Runs in either version, whose package is found by PYTHONPATH.
_MEASURE = """
import gc, sys, time
from imgcls_ray.inputs.listing import ListingCounts, list_inputs
source, repeat = sys.argv[1], int(sys.argv[2])
times = []
for _ in range(repeat + 1):
    gc.collect()
    start = time.process_time()
    count = sum(1 for _ in list_inputs(source, ListingCounts()))
    times.append(time.process_time() - start)
print(count, min(times[1:]))
"""


def make_folder(root: Path, num_images: int, *, with_litter: bool) -> Path:
    """A folder of folders of empty files, with as many pieces of litter as images if wanted."""
    for i in range(num_images):
        folder = root / f"{i // _IMAGES_PER_FOLDER:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"IMG_{i:07d}.JPG").touch()
        if with_litter:
            litter = folder / _LITTER[i % len(_LITTER)].format(f"IMG_{i:07d}")
            litter.parent.mkdir(parents=True, exist_ok=True)
            litter.touch()
    return root


def make_lists(root: Path, num_rows: int) -> list[Path]:
    """The same rows as text, CSV, gzipped CSV and Parquet."""
    uris = [f"s3://a-bucket-of-some-name/photos/{i * 7919 % 10**9:09d}-{i:09d}.jpg" for i in range(num_rows)]
    text = "\n".join(uris)
    table = "\n".join(["uri,size,etag", *(f"{uri},100000,{i:032x}" for i, uri in enumerate(uris))])
    (root / "list.txt").write_text(text)
    (root / "list.csv").write_text(table)
    sizes, etags = [100_000] * num_rows, [f"{i:032x}" for i in range(num_rows)]
    pq.write_table(pa.table({"uri": uris, "size": sizes, "etag": etags}), root / "list.parquet")
    (root / "list.csv.gz").write_bytes(gzip.compress(table.encode(), 1))
    (root / "list.jsonl").write_text("".join(json.dumps({"uri": uri, "size": 100_000}) + "\n" for uri in uris))
    return [root / f"list.{kind}" for kind in ("txt", "csv", "parquet", "csv.gz", "jsonl")]


def run_once(package: Path, source: Path, repeat: int) -> tuple[int, float]:
    """Number of inputs and seconds of a listing, with the package in this folder."""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    command = [sys.executable, "-c", _MEASURE, str(source), str(repeat)]
    out = subprocess.run(command, env=environment, cwd=package, check=True, capture_output=True, text=True).stdout
    count, seconds = out.split()
    return int(count), float(seconds)


def compare(figure: str, source: Path, versions: dict[str, Path], *, rounds: int, repeat: int) -> None:
    """Alternate between the versions, and print the smallest time of each and their ratio."""
    best: dict[str, float] = {}
    counts: dict[str, int] = {}
    for _ in range(rounds):
        for name, package in versions.items():
            counts[name], seconds = run_once(package, source, repeat)
            best[name] = min(seconds, best.get(name, seconds))
    for name, seconds in best.items():
        emit("listing", f"{figure}_{name}", seconds, "s", inputs=counts[name])
    if "before" in best:
        emit("listing", f"{figure}_ratio", best["after"] / best["before"], "after/before")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listing", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="root of another checkout to compare with")
    parser.add_argument("--images", type=int, default=50_000, help="number of images [default: 50000]")
    parser.add_argument("--rows", type=int, default=200_000, help="number of rows of the lists [default: 200000]")
    parser.add_argument("--rounds", type=int, default=5, help="number of processes of each version [default: 5]")
    args = parser.parse_args()
    here = Path(__file__).resolve().parent.parent
    versions = {"before": args.before.resolve(), "after": here} if args.before else {"after": here}
    with tempfile.TemporaryDirectory(prefix="imgcls-listing-") as temporary:
        root = Path(temporary)
        for name, with_litter in (("folder", False), ("folder_with_litter", True)):
            source = make_folder(root / name, args.images, with_litter=with_litter)
            compare(name, source, versions, rounds=args.rounds, repeat=3)
        for source in make_lists(root, args.rows):
            # Earlier versions take lists of the other kinds for one image.
            is_new = source.suffix in (".gz", ".jsonl")
            of_list = {"after": here} if is_new else versions
            compare(f"list_{source.name.partition('.')[2]}", source, of_list, rounds=args.rounds, repeat=1)


if __name__ == "__main__":
    main()
