"""A network that does not fit once per core: shared by the cores of a worker, or refused before anything starts."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from imgcls_ray.config import EvaluateConfig, PredictConfig, make_config
from imgcls_ray.errors import ConfigError, ResourceError
from imgcls_ray.models.engines.memory import measure_memory
from imgcls_ray.predict import job
from imgcls_ray.predict.job import predict
from imgcls_ray.workers import prepare, ray_pool
from imgcls_ray.workers.plan import Elastic
from imgcls_ray.workers.prepare import start_locally
from imgcls_ray.workers.ray_cluster import plan_workers
from imgcls_ray.workers.sizing import LOCAL_BYTES, WorkerMemory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.workers.local_pool import LocalPool
    from imgcls_ray.workers.plan import WorkerPlan


@pytest.fixture
def memory(small_model: ModelFolder) -> WorkerMemory:
    measured = measure_memory(small_model, engine="auto", precision="auto", batch_size=8, embedding=False)
    assert measured is not None
    return WorkerMemory(measured, LOCAL_BYTES)


@pytest.fixture
def label(draw_images: Callable[..., list[Path]], small_model: ModelFolder, tmp_path: Path) -> Callable[..., Path]:
    images = draw_images(70)
    images[7].write_bytes(b"no image")

    def run(name: str, **values: Any) -> Path:
        paths = {"input": str(images[0].parent), "model": str(small_model.path), "output": str(tmp_path / name)}
        config = make_config(PredictConfig, {**paths, "batch_size": 8, "on": "local", "logits": False, **values})
        predict(config, Console(stderr=True, force_terminal=False))
        return tmp_path / name

    return run


@pytest.fixture
def has_left(small_model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the machine have so many bytes for workers."""
    rest = prepare._KEPT_FREE_BYTES + small_model.num_bytes

    def have(num_bytes: int) -> None:
        monkeypatch.setattr(prepare, "available_memory", lambda: num_bytes + rest)

    return have


@pytest.fixture
def has_in_all(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the machine have so many bytes in all."""
    return lambda num_bytes: monkeypatch.setattr(prepare, "available_memory", lambda: num_bytes)


def parts(store: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in store.glob("predictions/*.parquet")}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_one_worker_of_two_cores_writes_the_bytes_of_two_workers(
    label: Callable[..., Path],
    memory: WorkerMemory,
    has_left: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(prepare, "available_cores", lambda: 2)
    with caplog.at_level(logging.INFO, logger="imgcls_ray"):
        # Which has room for two workers of one core, and then for one of two.
        has_left(2 * memory.of(1))
        one_each = parts(label("one-each", unit_size=16))
        has_left(memory.of(2))
        shared = parts(label("shared", unit_size=16))
    started = [line for line in caplog.messages if line.startswith("starting")]
    assert started == [
        "starting 2 processes on this machine, each loads the model",
        "starting 1 process of 2 cores on this machine, which loads the model",
    ]
    assert shared == one_each
    assert len(shared) == 5


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_single_unit_on_two_threads_has_the_rows_of_workers_of_one_core(
    label: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgcls_ray.predict.job.available_cores", lambda: 2)
    alone, one_each = label("alone", logits=True), label("one-each", unit_size=16, cores_per_worker=1, logits=True)
    assert (len(parts(alone)), len(parts(one_each))) == (1, 5)
    columns = ["image_id", "status", "scores", "logits"]
    rows = [pq.read_table(store / "predictions", columns=columns).sort_by("image_id") for store in (alone, one_each)]
    assert rows[0].equals(rows[1])


def test_what_does_not_fit_is_refused_before_it_is_planned(
    label: Callable[..., Path], memory: WorkerMemory, has_in_all: Callable[[int], None], tmp_path: Path
) -> None:
    network = memory.network.of_worker(1)
    has_in_all(network - 1)
    with pytest.raises(ResourceError, match=r"1 worker of 1 core needs .* this machine has .* left; give"):
        label("store", unit_size=16)
    assert not list((tmp_path / "store").rglob("*.parquet"))
    # A single unit, too, which would have one worker with all cores.
    with pytest.raises(ResourceError, match="1 worker of 1 core needs"):
        label("alone", limit=4)
    has_in_all(2 * network - 1)
    with pytest.raises(ResourceError, match="2 workers of 1 core need"):
        label("two", unit_size=16, num_workers=2)
    assert ResourceError.exit_code == 2


def test_a_small_container_labels_with_fewer_workers_and_a_warning(
    label: Callable[..., Path],
    memory: WorkerMemory,
    has_in_all: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(prepare, "available_cores", lambda: 2)
    # Less than what is kept for others, and enough for the networks.
    has_in_all(2 * memory.network.of_worker(1))
    with caplog.at_level(logging.INFO, logger="imgcls_ray"):
        assert len(parts(label("chosen", unit_size=16))) == 5
        assert len(parts(label("alone", limit=4))) == 1
        assert len(parts(label("asked", unit_size=16, num_workers=2))) == 5
    started = [line.split(" on ")[0] for line in caplog.messages if line.startswith("starting")]
    assert started == ["starting 1 process", "starting 1 process", "starting 2 processes"]
    assert sum(line.startswith("this machine may run out of memory: it has") for line in caplog.messages) == 3


def test_a_single_unit_for_which_this_machine_has_no_room_goes_to_the_cluster(
    label: Callable[..., Path],
    memory: WorkerMemory,
    has_in_all: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class ToRayError(Exception):
        pass

    def to_ray(*_: Any, **__: Any) -> None:
        raise ToRayError

    monkeypatch.setattr(job, "is_on_ray", lambda _: True)
    monkeypatch.setattr(job, "start_classifiers", to_ray)
    has_in_all(memory.network.of_worker(1) - 1)
    with pytest.raises(ToRayError):
        label("large", limit=4)
    has_in_all(memory.network.of_worker(1))
    assert len(parts(label("small", limit=4))) == 1


def test_a_run_that_was_begun_in_fp32_has_the_memory_of_fp32(
    label: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def start(*args: Any, precision: Any = None, **kwargs: Any) -> LocalPool:
        asked.append(precision)
        return start_locally(*args, precision=precision, **kwargs)

    monkeypatch.setattr(job, "start_locally", start)
    store = label("store", unit_size=16, precision="fp32")
    assert asked == []
    # As if the command had been killed over its last unit.
    (store / "runs" / "0001.json").unlink()
    shutil.rmtree(store / "predictions" / "_delta_log")
    sorted((store / "predictions").iterdir())[-1].unlink()
    label("store", unit_size=16)
    assert asked == ["fp32"]


def test_a_system_that_does_not_tell_its_memory_refuses_nothing(
    label: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "available_memory", lambda: None)
    one_each = parts(label("store", unit_size=16))
    assert len(one_each) == 5
    if len(os.sched_getaffinity(0)) >= 2:
        assert parts(label("shared", unit_size=16, cores_per_worker=2)) == one_each


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("address", "asked", "cores", "elastic"),
    [("", {"cores_per_worker": 2}, 2, None), ("auto", {"max_workers": 2}, 1, Elastic(1, 2))],
)
def test_actors_on_ray_have_their_cores_and_memory_and_write_the_same_bytes(
    label: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    asked: dict[str, int],
    cores: int,
    elastic: Elastic | None,
) -> None:
    plans: list[WorkerPlan] = []
    given: list[dict[str, Any]] = []

    def plan(*args: Any, **kwargs: Any) -> WorkerPlan:
        plans.append(plan_workers(*args, **kwargs))
        return plans[-1]

    def map_blocks(*args: Any, **kwargs: Any) -> Any:
        given.append(kwargs)
        return ray_map(*args, **kwargs)

    ray_map = ray_pool._map
    monkeypatch.setattr(prepare, "plan_workers", plan)
    monkeypatch.setattr(ray_pool, "_map", map_blocks)
    here = parts(label("here", unit_size=16))
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert parts(label("ray", unit_size=16, on="ray", **asked)) == here
    [chosen] = plans
    assert (chosen.cores_per_worker, chosen.elastic) == (cores, elastic)
    assert chosen.bytes_per_worker is not None
    assert [(each["num_cpus"], each["memory"]) for each in given] == [(cores, chosen.bytes_per_worker)]


@pytest.mark.parametrize("device", [{"device": "gpu"}, {"device": "gpu:0"}, {"num_gpus": 1}])
def test_cores_of_a_worker_are_refused_with_gpus(device: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cores_per_worker is for labelling on CPUs; leave it out, or give device"):
        make_config(PredictConfig, {"input": "a", "model": "b", "output": "c", "cores_per_worker": 2, **device})
    if "device" in device:
        with pytest.raises(ConfigError, match="cores_per_worker is for evaluating on CPUs"):
            make_config(EvaluateConfig, {"data": "a", "model": "b", "cores_per_worker": 2, **device})
