"""Does it cost rate that images and labels lie on S3, and every GET takes 50 ms longer? The same job, here and there.

The server is a real one (Ceph's S3 gateway), the 50 ms are a proxy's before it. Both need a processor of their own, as
they have one in the world: with ``--layout apart``, the default, they have one core, and the job, local or not, has
another. ``--layout shared`` lets everything have all cores: then the server's work counts as the job's.

Local and remote jobs take turns; the steady rate is as in ``benchmarks.ours``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import (
    Part,
    available_cores,
    emit,
    imgcls,
    isolated_environment,
    keep_conversion,
    list_images,
    read_once,
    read_parts,
    steady_rate,
)
from tests.s3.proxy import Faults, s3_proxy
from tests.s3.server import s3_server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.s3.server import S3Server

_BUCKET = "remote"


def upload(server: S3Server, images: Sequence[Path]) -> None:
    client = server.client()
    client.create_bucket(Bucket=_BUCKET)

    def put(image: Path) -> None:
        client.put_object(Bucket=_BUCKET, Key=f"in/{image.name}", Body=image.read_bytes())

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(put, images))


def read_remote_parts(server: S3Server, prefix: str, sizes: dict[str, int]) -> list[Part]:
    """The part files of a store, the oldest first; ``sizes`` are the rows of each, which the plan gives."""
    pages: Any = (
        server.client().get_paginator("list_objects_v2").paginate(Bucket=_BUCKET, Prefix=f"{prefix}/predictions/")
    )
    objects = [item for page in pages for item in page.get("Contents", ())]
    names = [(item["LastModified"].timestamp(), item["Key"].rpartition("/")[2]) for item in objects]
    return sorted(Part(time, sizes[name], name) for time, name in names if name in sizes)


def unit_sizes(uri: str) -> dict[str, int]:
    from imgcls_ray.storage import open_directory
    from imgcls_ray.store.opening import open_store

    units = open_store(open_directory(uri)).units(1)
    return {unit.part_name.rpartition("/")[2]: unit.num_rows for unit in units}


def run(command: list[str], environment: dict[str, str], cores: set[int]) -> None:
    os.sched_setaffinity(0, cores)  # what is started inherits it
    try:
        job = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    finally:
        os.sched_setaffinity(0, _ALL)
    if job.returncode:
        sys.exit(f"imgcls predict: exit code {job.returncode}")


_ALL = os.sched_getaffinity(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remote", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, metavar="DIR", help="folder of JPEG files")
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--delay-s", type=float, default=0.05, help="before the answer of every GET [default: 0.05]")
    parser.add_argument("--pairs", type=int, default=3, help="of a local and a remote job [default: 3]")
    parser.add_argument("--layout", choices=("apart", "shared"), default="apart")
    args = parser.parse_args()
    images = list_images(args.images)
    read_once(images)
    first, *others = sorted(_ALL)
    if args.layout == "apart" and available_cores() < 2:
        parser.error("--layout apart needs two cores")
    for_job, for_storage = ({first}, set(others)) if args.layout == "apart" else (_ALL, _ALL)
    rates: dict[str, list[float]] = {"local": [], "remote": []}
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ir-", ignore_cleanup_errors=True)))
        os.sched_setaffinity(0, for_storage)
        server = stack.enter_context(s3_server(temporary / "s3"))
        proxy = stack.enter_context(s3_proxy(server.endpoint_url, Faults(get_delay_s=args.delay_s)))
        upload(server, images)
        os.sched_setaffinity(0, _ALL)
        environment = stack.enter_context(isolated_environment())
        keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        os.environ |= {**keys, "AWS_ENDPOINT_URL": server.endpoint_url}
        environment |= {**keys, "AWS_ENDPOINT_URL": proxy.endpoint_url}
        keep_conversion(args.model, images[0], environment)
        for number in range(args.pairs):
            local = temporary / f"store-{number}"
            run(imgcls("predict", args.images, "-m", args.model, "-o", local), environment, for_job)
            rates["local"].append(steady_rate(read_parts(local)))
            prefix = f"store-{number}"
            remote = f"s3://{_BUCKET}/{prefix}"
            run(imgcls("predict", f"s3://{_BUCKET}/in/", "-m", args.model, "-o", remote), environment, for_job)
            rates["remote"].append(steady_rate(read_remote_parts(server, prefix, unit_sizes(remote))))
            for kind, values in rates.items():
                emit("remote", f"steady_rate_{kind}", values[-1], "images/s", layout=args.layout, images=len(images))
    ratios = [there / here for here, there in zip(rates["local"], rates["remote"], strict=True)]
    about = {"layout": args.layout, "delay_s": args.delay_s, "all": [round(ratio, 3) for ratio in ratios]}
    emit("remote", "remote_to_local", statistics.median(ratios), "ratio", **about)


if __name__ == "__main__":
    main()
