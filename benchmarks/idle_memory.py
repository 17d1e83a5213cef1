"""What do the two engines take in memory when their workers have loaded the network and have nothing to do?

    python -m benchmarks.idle_memory MODEL [--num-workers N] [--cores-per-worker N]

All processes of a job are counted: the command, the workers, and of Ray everything that it starts. Memory that several
processes share counts once (PSS: to each process its part).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow as pa

from benchmarks.common import emit, isolated_environment, wait_for
from imgcls_ray.models.engines.load import prepare_engine
from imgcls_ray.models.engines.openvino_core import openvino_core
from imgcls_ray.models.folder import open_model_folder
from imgcls_ray.workers.classifier_task import ClassifierTask, ClassifierWork
from imgcls_ray.workers.fetching import any_version
from imgcls_ray.workers.local_pool import LocalPool
from imgcls_ray.workers.local_worker import serve_workers
from imgcls_ray.workers.plan import WorkerPlan
from imgcls_ray.workers.ray_cluster import start_ray
from imgcls_ray.workers.ray_pool import RayPool
from imgcls_ray.workers.worker import Block

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.errors import ImageError
    from imgcls_ray.models.classifier import ModelInput, StageSeconds

_TIMEOUT_S = 300
# What was freed while loading is given back, and Ray's start is over.
_SETTLE_S = 5


class Idle(ClassifierWork[None]):
    """Loads the network, classifies one batch of nothing, and waits."""

    def __init__(self, task: ClassifierTask, place: Path, *, num_cores: int) -> None:
        super().__init__(task, "cpu", 1, num_cores)
        self._place = place

    def rows(self, _content: pa.Table) -> pa.Table:
        return any_version(pa.array([], pa.string()))

    def compute(self, _content: pa.Table, inputs: Iterator[ModelInput | ImageError], seconds: StageSeconds) -> None:
        list(self._classifier.classify_inputs(inputs, seconds))
        (self._place / str(os.getpid())).touch()
        wait_for(_TIMEOUT_S, (self._place / "end").exists)

    def commit(self, content: pa.Table, _rows: pa.Table, _result: None, _seconds: StageSeconds) -> pa.Table:
        return content


def serve_idle() -> None:
    """The process that local workers are forked from."""
    serve_workers(openvino_core)


def job(on: str, model: Path, place: Path, num_workers: int, cores: int) -> None:
    """In a process of its own: workers that load, and wait for the file ``end``."""
    # By its own name: a worker cannot find what belongs to a program's main module.
    from benchmarks import idle_memory

    folder = open_model_folder(model)
    task = ClassifierTask(str(model.resolve()), folder.spec.fingerprint, top_k=5)
    # Ray may give an actor two before another one has any.
    blocks = [Block(i, f"block-{i}", f"block {i}", pa.table({"number": [i]})) for i in range(2 * num_workers)]
    make_work: Any = partial(idle_memory.Idle, task, place, num_cores=cores)
    if on == "local":
        with LocalPool(idle_memory.__name__, "serve_idle", num_workers) as pool:
            list(pool.run(blocks, make_work))
        return
    start_ray(uses_gpus=False)
    list(RayPool(WorkerPlan(num_workers, cores_per_worker=cores)).run(blocks, make_work))


def measure(on: str, model: Path, num_workers: int, cores: int) -> dict[str, float]:
    """Proportional memory by what a process is, bytes."""
    with isolated_environment() as environment, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.idle_memory", str(model), "--on", on, "--place", folder]
        command += ["--num-workers", str(num_workers), "--cores-per-worker", str(cores)]
        # One process converts, and not all workers at once.
        subprocess.run([*command, "--prepare"], env=environment, check=True)
        with subprocess.Popen(command, env=environment) as running:
            is_ready = wait_for(
                _TIMEOUT_S, lambda: running.poll() is not None or len(os.listdir(folder)) == num_workers
            )
            if not is_ready or running.poll() is not None:
                running.kill()
                sys.exit(f"{on}: {num_workers} workers were not ready within {_TIMEOUT_S} s")
            time.sleep(_SETTLE_S)
            taken: dict[str, float] = {"all": 0, "command": 0, "processes": 0}
            root = psutil.Process(running.pid)
            for process in (root, *root.children(recursive=True)):
                with suppress(psutil.Error):
                    pss = process.memory_full_info().pss
                    taken["all"] += pss
                    taken["processes"] += 1
                    taken["command"] += pss if process == root else 0
            Path(folder, "end").touch()
            try:
                running.wait(_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                running.kill()
            if running.wait() != 0:
                sys.exit(f"{on}: exit code {running.returncode}")
    return taken


def compare(model: Path, num_workers: int, cores: int) -> None:
    about = {"num_workers": num_workers, "cores_per_worker": cores, "model": model.name}
    for on in ("local", "ray"):
        taken = measure(on, model, num_workers, cores)
        for what in ("all", "command"):
            emit("idle_memory", f"{on}_{what}", taken[what] / 1e6, "MB", processes=taken["processes"], **about)


def main() -> None:
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle_memory", description=about)
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder")
    parser.add_argument("--num-workers", type=int, default=2, help="[default: 2]")
    parser.add_argument("--cores-per-worker", type=int, default=1, help="[default: 1]")
    parser.add_argument("--on", choices=["local", "ray"], help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prepare:
        prepare_engine(open_model_folder(args.model), "auto", "cpu", embedding=False)
    elif args.on:
        job(args.on, args.model, args.place, args.num_workers, args.cores_per_worker)
    else:
        compare(args.model, args.num_workers, args.cores_per_worker)


if __name__ == "__main__":
    main()
