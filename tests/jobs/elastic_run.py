"""A run of blocks that only wait, on the Ray that ``RAY_ADDRESS`` names; it tells its events as lines of JSON.

A process of its own: the one of the tests does not join the cluster.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from imgcls_ray.storage import FetchLimits
from imgcls_ray.workers.ray_cluster import plan_workers, start_ray
from imgcls_ray.workers.ray_pool import RayPool
from imgcls_ray.workers.ray_table import node_id
from imgcls_ray.workers.worker import Block, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from imgcls_ray.errors import ImageError
    from imgcls_ray.models.classifier import StageSeconds


class Wait(Work[Any, str]):
    """Takes a while for each block; the first time that block 0 is done it takes for ever, if ``hangs`` is given."""

    fetch_limits = FetchLimits()

    def __init__(self, seconds: float, folder: str, hangs: bool) -> None:
        self._seconds, self._folder, self._hangs = seconds, Path(folder), hangs

    def rows(self, content: pa.Table) -> pa.Table:
        return pa.table({name: pa.array([], pa.string()) for name in ("uri", "etag", "size")})

    def decoder(self, *, careful: bool) -> AbstractContextManager[Callable[[bytes], Any]]:
        from contextlib import nullcontext

        return nullcontext(lambda data: data)

    def compute(self, content: pa.Table, inputs: Iterator[Any | ImageError], seconds: StageSeconds) -> str:
        [number] = content["number"].to_pylist()
        begun = self._folder / f"begun-{number}-{os.getpid()}-{time.time_ns()}"
        is_first = not list(self._folder.glob(f"begun-{number}-*"))
        begun.touch()
        time.sleep(600 if self._hangs and number == 0 and is_first else self._seconds)
        return node_id()

    def commit(self, content: pa.Table, rows: pa.Table, result: str, seconds: StageSeconds) -> pa.Table:
        [number] = content["number"].to_pylist()
        (self._folder / f"done-{number}").touch()
        return pa.table({"number": [number], "node": [result]})


def tell(**event: object) -> None:
    print(json.dumps({"time": time.time(), **event}), flush=True)


def main(folder: str, num_blocks: int, seconds: float, *, hangs: bool = False) -> None:
    start_ray(uses_gpus=False)
    pool = RayPool(plan_workers(None, 0))
    tell(event="started", workers=pool.plan.num_cpu_workers)

    def stop_when_told() -> None:
        sys.stdin.readline()
        pool.stop()
        tell(event="stopping")

    threading.Thread(target=stop_when_told, daemon=True).start()
    blocks = (Block(i, f"block-{i}", f"block {i}", pa.table({"number": [i]})) for i in range(num_blocks))
    for block in pool.run(blocks, partial(Wait, seconds, folder, hangs)):
        [row] = block.content.to_pylist()
        tell(event="done", **row)
    tell(event="ended")


if __name__ == "__main__":
    # Actors unpickle ``Wait`` by its module's name.
    from tests.jobs import elastic_run

    folder, num_blocks, seconds, *flags = sys.argv[1:]
    elastic_run.main(folder, int(num_blocks), float(seconds), hangs="hangs" in flags)
