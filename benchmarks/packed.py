"""What do packed images cost beside loose files? Requests and rates of tar, zip and Parquet, here and from S3.

The server is a real one (Ceph's S3 gateway); a proxy before it adds a delay to every GET and counts requests. First the
reading alone, as a worker does it, then the whole job, whose rows are compared. Kinds take turns.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import tarfile
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import emit, imgcls, isolated_environment, keep_conversion, list_images, read_once
from tests.s3.proxy import Faults, s3_proxy
from tests.s3.server import s3_server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.s3.proxy import S3Proxy
    from tests.s3.server import S3Server

_BUCKET = "packed"
_FILES = {"tar": "images.tar", "zip": "images.zip", "parquet": "images.parquet"}


def write_packed(folder: Path, images: Sequence[Path], group_rows: int) -> None:
    with tarfile.open(folder / _FILES["tar"], "w") as tar, zipfile.ZipFile(folder / _FILES["zip"], "w") as packed:
        for image in images:
            data = image.read_bytes()
            info = tarfile.TarInfo(image.name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            packed.writestr(image.name, data)
    rows = [{"bytes": image.read_bytes(), "path": image.name} for image in images]
    pq.write_table(pa.table({"image": rows}), folder / _FILES["parquet"], row_group_size=group_rows)


def upload(server: S3Server, images: Sequence[Path], folder: Path) -> None:
    client = server.client()
    client.create_bucket(Bucket=_BUCKET)

    def put(path: Path, key: str) -> None:
        client.put_object(Bucket=_BUCKET, Key=key, Body=path.read_bytes())

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(put, images, (f"loose/{image.name}" for image in images)))
    for name in _FILES.values():
        put(folder / name, name)


def read_all(source: str) -> tuple[int, float, float]:
    """Read every image of a source as a worker does: images, seconds to list, seconds to read."""
    from imgcls_ray.inputs.listing import ListingCounts, list_inputs
    from imgcls_ray.inputs.tables import tables_of
    from imgcls_ray.storage import FetchLimits
    from imgcls_ray.workers.fetching import NUM_FETCH_THREADS, fetch_inputs

    start = time.perf_counter()
    tables = list(tables_of(list_inputs(source, ListingCounts()), rows=1024))
    listed = time.perf_counter()
    num_images = 0
    with ThreadPoolExecutor(NUM_FETCH_THREADS) as executor:
        for table in tables:
            for first in range(0, table.num_rows, 1024):
                contents = fetch_inputs(table.slice(first, 1024), FetchLimits(), executor)
                num_images += sum(isinstance(content, bytes) for content in contents)
    return num_images, listed - start, time.perf_counter() - listed


def rows_of(store: Path) -> list[tuple[object, ...]]:
    """Labels in the order of the images' names."""
    from imgcls_ray.storage import open_directory
    from imgcls_ray.store.latest import latest_rows
    from imgcls_ray.store.opening import open_store

    rows = [row for table in latest_rows(open_store(open_directory(str(store)))) for row in table.to_pylist()]
    return [(row["status"], row["label"], row["score"], row["width"]) for row in rows]


def measure_reading(places: dict[str, dict[str, str]], proxy: S3Proxy, rounds: int) -> None:
    for place, sources in places.items():
        rates: dict[str, list[float]] = {kind: [] for kind in sources}
        for number in range(rounds):
            for kind, source in sources.items():
                before = proxy.counts().requests
                num_images, list_s, read_s = read_all(source)
                rates[kind].append(num_images / read_s)
                after = proxy.counts().requests
                if number == 0:
                    requests = {name: after[name] - before.get(name, 0) for name in after}
                    about = {"images": num_images, "list_s": round(list_s, 3), **requests}
                    emit("packed", f"gets_{place}_{kind}", requests.get("get", 0), "requests", **about)
        for kind, values in rates.items():
            ratios = [value / loose for value, loose in zip(values, rates["loose"], strict=True)]
            about = {"to_loose": round(statistics.median(ratios), 3)}
            emit("packed", f"reading_{place}_{kind}", statistics.median(values), "images/s", **about)


def measure_jobs(
    places: dict[str, dict[str, str]], model: Path, folder: Path, environment: dict[str, str], rounds: int
) -> None:
    for place, sources in places.items():
        rows: dict[str, list[tuple[object, ...]]] = {}
        seconds: dict[str, list[float]] = {kind: [] for kind in sources}
        for number in range(rounds):
            for kind, source in sources.items():
                store = folder / f"store-{place}-{kind}-{number}"
                start = time.perf_counter()
                job = imgcls("predict", source, "-m", model, "-o", store)
                subprocess.run(job, env=environment, stdout=subprocess.DEVNULL, check=True)
                seconds[kind].append(time.perf_counter() - start)
                rows[kind] = rows_of(store)
        for kind, values in seconds.items():
            ratios = [loose / value for value, loose in zip(values, seconds["loose"], strict=True)]
            about = {"to_loose": round(statistics.median(ratios), 3), "rows_equal": rows[kind] == rows["loose"]}
            emit("packed", f"job_{place}_{kind}", len(rows[kind]) / statistics.median(values), "images/s", **about)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, metavar="DIR", help="folder of JPEG files")
    parser.add_argument("--model", type=Path, help="model folder; without it only the reading is measured")
    parser.add_argument("--delay-s", type=float, default=0.03, help="before the answer of every GET [default: 0.03]")
    parser.add_argument("--rounds", type=int, default=3, help="in each of which every kind has a turn [default: 3]")
    parser.add_argument("--group-rows", type=int, default=100, help="of a Parquet row group [default: 100]")
    args = parser.parse_args()
    images = list_images(args.images)
    read_once(images)
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ip-", ignore_cleanup_errors=True)))
        server = stack.enter_context(s3_server(temporary / "s3"))
        proxy = stack.enter_context(s3_proxy(server.endpoint_url, Faults(get_delay_s=args.delay_s)))
        write_packed(temporary, images, args.group_rows)
        upload(server, images, temporary)
        keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        keys["AWS_ENDPOINT_URL"] = proxy.endpoint_url
        os.environ |= keys
        places = {
            "local": {"loose": str(args.images), **{kind: str(temporary / name) for kind, name in _FILES.items()}},
            "s3": {
                "loose": f"s3://{_BUCKET}/loose/",
                **{kind: f"s3://{_BUCKET}/{name}" for kind, name in _FILES.items()},
            },
        }
        measure_reading(places, proxy, args.rounds)
        if args.model is not None:
            environment = {**stack.enter_context(isolated_environment()), **keys}
            keep_conversion(args.model, images[0], environment)
            measure_jobs(places, args.model, temporary, environment, args.rounds)


if __name__ == "__main__":
    main()
