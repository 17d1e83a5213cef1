"""A worker that was stopped before its write and wakes up when its unit was labelled by others changes nothing."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.inputs.listing import ListingCounts, list_inputs
from imgcls_ray.predict.job import predict
from imgcls_ray.predict.label import LabelTask
from imgcls_ray.storage import open_directory
from imgcls_ray.store.opening import create_or_open_store
from imgcls_ray.store.records import StoreIdentity
from imgcls_ray.store.verify import verify_store
from tests.store.stores import plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.schema import Unit
    from tests.s3.server import S3Server

# Labels one unit as a worker does, and stops itself at a call: before the part is written at all, or when its bytes are
# on the disk and only their name is missing. Says at last whether its part is the one that stands.
LATE_WORKER = """
import os, pickle, signal, sys
from imgcls_ray.predict.label import LabelWork, block_of_unit
from imgcls_ray.storage.local import LocalDirectory
from imgcls_ray.storage.object_directory import ObjectDirectory
from imgcls_ray.workers.board import LocalBoard
from imgcls_ray.workers.worker import BlockWorker

task, unit, call = pickle.load(sys.stdin.buffer)
worker = BlockWorker(lambda: LabelWork(task), LocalBoard(), lambda: "late")
owner, name = {"create": (LocalDirectory, "create"), "link": (os, "link"), "put": (ObjectDirectory, "create")}[call]
function = getattr(owner, name)

def stop_first(*arguments):
    os.kill(os.getpid(), signal.SIGSTOP)
    return function(*arguments)

setattr(owner, name, stop_first)
[counts] = worker.run(block_of_unit(unit)).content.to_pylist()
print("written" if counts["committed"] else "was there")
"""


def plan_images(folder: Path, model: ModelFolder, output: str) -> tuple[LabelStore, LabelTask, Unit]:
    """Plan a folder's images as one unit of run 1, as the command with these paths does."""
    identity = StoreIdentity(
        model=model.spec.name,
        fingerprint=model.spec.fingerprint,
        num_classes=model.spec.num_classes,
        top_k=5,
        embedding=False,
        logits=False,
    )
    store = create_or_open_store(open_directory(output), identity)
    assert plan(store, list_inputs(str(folder), ListingCounts()), unit_size=32) == 1
    [unit] = store.units(1)
    return store, LabelTask(str(model.path), model.spec.fingerprint, store.uri, top_k=5), unit


@contextmanager
def late_worker(task: LabelTask, unit: Unit, call: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that is stopped at the call while the block begins."""
    command = [sys.executable, "-c", LATE_WORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            pickle.dump((task, unit, call), process.stdin)
            process.stdin.flush()
            wait_until_stopped(process)
            yield process
        finally:
            process.kill()


def wait_until_stopped(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while state_of(process.pid) != "T":
        assert process.poll() is None, "it ended before it wrote"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wake(process: subprocess.Popen[bytes]) -> str:
    """Let it go on to its end; what it said."""
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output.decode().strip()


def label(folder: Path, model: ModelFolder, output: str) -> None:
    """Do what the command does with these paths."""
    values = {"input": str(folder), "model": str(model.path), "output": output, "on": "local"}
    report = predict(make_config(PredictConfig, values), Console(stderr=True, force_terminal=False))
    assert sum(run.num_images - run.num_done_before for run in report.runs) == 20, "the unit was labelled before"


def files_of(store: Path) -> Mapping[str, tuple[object, ...]]:
    """Everything in a local store: content, and which file it is."""
    return {
        str(path.relative_to(store)): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in store.rglob("*")
        if path.is_file()
    }


def objects_of(s3: S3Server, bucket: str) -> Mapping[str, tuple[object, ...]]:
    """Everything in a bucket: content, and when it was written."""
    client = s3.client()
    return {
        item["Key"]: (item["LastModified"], client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read())
        for item in client.list_objects_v2(Bucket=bucket)["Contents"]
    }


@pytest.mark.parametrize("call", ["create", "link"])
def test_a_late_worker_changes_nothing_in_a_local_store(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder, tmp_path: Path, call: str
) -> None:
    folder = draw_images(20)[0].parent
    store, task, unit = plan_images(folder, small_model, str(tmp_path / "store"))
    with late_worker(task, unit, call) as worker:
        label(folder, small_model, store.uri)
        before = {name: file for name, file in files_of(tmp_path / "store").items() if "/." not in name}
        assert f"predictions/{Path(unit.part_name).name}" in before
        assert wake(worker) == "was there"
    assert files_of(tmp_path / "store") == before
    report = verify_store(store)
    assert (report.problems, report.num_rows, report.num_doubled) == ([], 20, 0)


def test_a_late_worker_changes_nothing_in_a_store_on_s3(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder, s3: S3Server, bucket: str
) -> None:
    folder = draw_images(20)[0].parent
    store, task, unit = plan_images(folder, small_model, f"s3://{bucket}/store")
    with late_worker(task, unit, "put") as worker:
        label(folder, small_model, store.uri)
        before = objects_of(s3, bucket)
        assert f"store/{unit.part_name}" in before
        assert wake(worker) == "was there"
    assert objects_of(s3, bucket) == before
    report = verify_store(store)
    assert (report.problems, report.num_rows, report.num_doubled) == ([], 20, 0)


def test_a_worker_that_was_merely_slow_still_writes_its_part(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder, tmp_path: Path
) -> None:
    folder = draw_images(20)[0].parent
    store, task, unit = plan_images(folder, small_model, str(tmp_path / "store"))
    with late_worker(task, unit, "create") as worker:
        assert not store.directory.exists(unit.part_name)
        assert wake(worker) == "written"
    assert store.read_part(unit.part_name).num_rows == 20
