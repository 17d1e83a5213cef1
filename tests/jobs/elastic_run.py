"""A run of blocks that only wait, on the Ray that ``RAY_ADDRESS`` names; it tells its events as lines of JSON.

A process of its own: the one of the tests does not join the cluster. A line at its standard input is a stop.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import nullcontext
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


FAST = "fast"
"""A file of the run's folder: once it is there, blocks take no time."""
_BLOCK_S = 0.5
_FOR_EVER_S = 600.0


class Wait(Work[Any, str]):
    """Takes a while for each block; the worker that is the first to have block 0 takes for ever, if ``hangs``.

    Its folder has a file for each block that was begun, and for each that is done.
    """

    fetch_limits = FetchLimits()

    def __init__(self, folder: str, hangs: bool) -> None:
        self._folder, self._hangs = Path(folder), hangs

    def rows(self, content: pa.Table) -> pa.Table:
        return pa.table({name: pa.array([], pa.string()) for name in ("uri", "etag", "size")})

    def decoder(self, *, careful: bool) -> AbstractContextManager[Callable[[bytes], Any]]:
        return nullcontext(lambda data: data)

    def compute(self, content: pa.Table, inputs: Iterator[Any | ImageError], seconds: StageSeconds) -> str:
        [number] = content["number"].to_pylist()
        is_first = not list(self._folder.glob(f"begun-{number}-*"))
        (self._folder / f"begun-{number}-{time.time_ns()}").touch()
        if self._hangs and number == 0 and is_first:
            time.sleep(_FOR_EVER_S)
        if not (self._folder / FAST).exists():
            time.sleep(_BLOCK_S)
        return node_id()

    def commit(self, content: pa.Table, rows: pa.Table, result: str, seconds: StageSeconds) -> pa.Table:
        [number] = content["number"].to_pylist()
        (self._folder / f"done-{number}").touch()
        return pa.table({"number": [number], "node": [result]})


def tell(event: str, **values: object) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


def main(folder: str, num_blocks: int, *, hangs: bool) -> None:
    start_ray(uses_gpus=False)
    pool = RayPool(plan_workers(None, 0))

    def stop_when_told() -> None:
        if sys.stdin.readline():
            pool.stop()

    threading.Thread(target=stop_when_told, daemon=True).start()
    blocks = (Block(i, f"block-{i}", f"block {i}", pa.table({"number": [i]})) for i in range(num_blocks))
    for block in pool.run(blocks, partial(Wait, folder, hangs)):
        [row] = block.content.to_pylist()
        tell("done", **row, workers=pool.plan.num_cpu_workers)
    tell("ended", workers=pool.plan.num_cpu_workers)


if __name__ == "__main__":
    # Actors find ``Wait`` by the name of its module, which is not ``__main__`` there.
    from tests.jobs import elastic_run

    elastic_run.main(sys.argv[1], int(sys.argv[2]), hangs="hangs" in sys.argv[3:])
