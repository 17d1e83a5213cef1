"""Which actors a Ray may be asked for."""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from typing import Any

import pytest

from imgcls_ray.errors import ResourceError
from imgcls_ray.models.engines.memory import NetworkMemory
from imgcls_ray.workers import ray_cluster
from imgcls_ray.workers.plan import Elastic, WorkerPlan
from imgcls_ray.workers.ray_cluster import check_local, plan_workers, show_gpus
from imgcls_ray.workers.sizing import WorkerMemory

LARGE = WorkerMemory(NetworkMemory(once=2_000_000_000, per_core=500_000_000), rest=500_000_000)
HUGE = WorkerMemory(NetworkMemory(once=5_000_000_000, per_core=500_000_000), rest=500_000_000)


def nodes(monkeypatch: pytest.MonkeyPatch, *rooms: tuple[int, float], gpus: int = 0) -> None:
    """A Ray of nodes with so many CPUs and gigabytes."""
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": float(gpus)} if gpus else {})
    told = [{"Alive": True, "Resources": {"CPU": float(cpus), "memory": gb * 1e9}} for cpus, gb in rooms]
    dead = {"Alive": False, "Resources": {"CPU": 64.0, "memory": 1e12}}
    without_cpus = {"Alive": True, "Resources": {"memory": 1e12}}
    monkeypatch.setattr("ray.nodes", lambda: [*told, dead, without_cpus])


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray of two CPUs and one GPU."""
    nodes(monkeypatch, (2, 4), gpus=1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.usefixtures("has")
def test_all_cpus_are_workers_by_default() -> None:
    assert plan_workers(None, 0) == WorkerPlan(2, 0)


@pytest.mark.usefixtures("has")
@pytest.mark.parametrize(("num_workers", "num_gpus"), [(3, 0), (None, 2)])
def test_the_machines_own_ray_is_not_asked_for_more_than_it_has(num_workers: int | None, num_gpus: int) -> None:
    with pytest.raises(ResourceError, match="the Ray cluster has 2 CPUs and 1 GPUs"):
        plan_workers(num_workers, num_gpus)


@pytest.mark.usefixtures("has")
def test_a_given_cluster_may_be_asked_for_more_and_says_what_runs_now(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with caplog.at_level(logging.INFO, logger="imgcls_ray"):
        assert plan_workers(64, 4) == WorkerPlan(64, 4)
    [line] = caplog.messages
    assert "2 of 64 CPU workers and 1 of 4 GPU workers can run now, the others start when it grows" in line


def test_a_given_cluster_without_cpus_needs_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    nodes(monkeypatch)
    with pytest.raises(ResourceError, match="give num_workers or min_workers, and the cluster grows"):
        plan_workers(None, 0)
    with pytest.raises(ResourceError, match="no CPUs now"):
        plan_workers(None, 0, max_workers=8)
    assert plan_workers(8, 0) == WorkerPlan(8, 0)
    assert plan_workers(None, 0, min_workers=8) == WorkerPlan(8, 0, Elastic(8))


@pytest.mark.usefixtures("has")
@pytest.mark.parametrize(
    ("limits", "plan"),
    [
        ({}, WorkerPlan(2, 0, Elastic())),
        ({"max_workers": 1}, WorkerPlan(1, 0, Elastic(1, 1))),
        ({"max_workers": 16}, WorkerPlan(2, 0, Elastic(1, 16))),
        ({"min_workers": 4, "max_workers": 16}, WorkerPlan(4, 0, Elastic(4, 16))),
    ],
)
def test_the_workers_of_a_given_cluster_follow_its_cpus_between_the_limits(
    monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any], plan: WorkerPlan
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert plan_workers(None, 0, **limits) == plan


@pytest.mark.usefixtures("has")
def test_the_machines_own_ray_does_not_grow_but_has_the_limits() -> None:
    assert plan_workers(None, 0, max_workers=1) == WorkerPlan(1, 0)
    with pytest.raises(ResourceError, match="3 workers of 1"):
        plan_workers(None, 0, min_workers=3)


def test_min_workers_that_this_machine_lacks_are_refused_by_their_name() -> None:
    with pytest.raises(ResourceError, match=r"^min_workers=9999 needs 9999 CPUs"):
        check_local(9999, uses_gpus=False, num_gpus=0, gpu_ids=(), key="min_workers")


@pytest.mark.usefixtures("has")
def test_all_gpus_are_all_that_ray_has() -> None:
    assert plan_workers(None, None) == WorkerPlan(2, 1)


def test_all_gpus_of_a_cluster_without_one_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes(monkeypatch, (2, 4))
    with pytest.raises(
        ResourceError, match="the Ray cluster has no GPU now; give num_gpus if it can grow, or device=cpu"
    ):
        plan_workers(None, None)


@pytest.mark.parametrize(
    ("num_gpus", "gpu_ids", "found", "message"),
    [
        (0, (), 0, "device=gpu needs a GPU, this machine has 0 GPUs; give device=cpu"),
        (0, (0, 2), 1, "device=gpu:0,2: this machine has 1 GPU, so there is no GPU 2; give one that is there"),
        (3, (), 2, "num_gpus=3 needs 3 GPUs, this machine has 2 GPUs"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch, num_gpus: int, gpu_ids: tuple[int, ...], found: int, message: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: found)
    with pytest.raises(ResourceError, match=message):
        check_local(1, uses_gpus=True, num_gpus=num_gpus, gpu_ids=gpu_ids)


@pytest.mark.parametrize(("before", "after"), [(None, "2,0"), ("4,5,7", "7,4")])
def test_named_gpus_are_the_only_ones_that_ray_sees(
    monkeypatch: pytest.MonkeyPatch, before: str | None, after: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    show_gpus((2, 0))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == after
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


def test_actors_have_so_many_cpus_that_the_network_fits_on_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes(monkeypatch, (4, 100), (4, 100))
    assert plan_workers(None, 0, memory=LARGE) == WorkerPlan(8, bytes_per_worker=3_000_000_000)
    nodes(monkeypatch, (4, 5), (4, 5))
    shared = WorkerPlan(2, cores_per_worker=4, bytes_per_worker=4_500_000_000)
    assert plan_workers(None, 0, memory=LARGE) == shared


def test_actors_without_room_are_refused_except_on_nodes_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes(monkeypatch, (4, 2))
    with pytest.raises(ResourceError, match=r"1 worker of 1 core needs 2.5 GB .* the Ray cluster has 2.0 GB left"):
        plan_workers(None, 0, memory=LARGE)
    with pytest.raises(ResourceError, match=r"4 workers of 1 core need 10.0 GB"):
        plan_workers(None, 0, min_workers=4, memory=LARGE)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ResourceError, match=r"the Ray cluster has 2\.0 GB left"):
        plan_workers(None, 0, memory=LARGE)
    assert plan_workers(2, 0, cores_per_worker=4, memory=LARGE).bytes_per_worker == 4_500_000_000
    assert plan_workers(None, 0, min_workers=8, memory=LARGE) == WorkerPlan(
        8, elastic=Elastic(8), bytes_per_worker=3_000_000_000
    )
    assert plan_workers(None, 0, max_workers=8, memory=LARGE).num_cpu_workers == 1


@pytest.mark.parametrize(
    ("rooms", "asked", "told"),
    [
        (
            [(16, 4)],
            {"num_workers": 1, "memory": HUGE},
            "has 16 CPUs and 0 GPUs: 0 of 1 CPU workers of 6.0 GB of memory",
        ),
        (
            [(8, 64)] * 4,
            {"num_workers": 1, "cores_per_worker": 16},
            "has 32 CPUs (at most 8 on one node) and 0 GPUs: 0 of 1 CPU workers of 16 CPUs",
        ),
        (
            [(4, 64)] * 2,
            {"num_workers": 2, "cores_per_worker": 8, "memory": LARGE},
            "0 of 2 CPU workers of 8 CPUs and 6.5 GB of memory",
        ),
        ([(4, 4), (4, 64)], {"num_workers": 8, "memory": HUGE}, "4 of 8 CPU workers of 6.0 GB of memory"),
        ([(2, 2)], {"num_workers": None, "min_workers": 8, "memory": LARGE}, "0 of 8 CPU workers of 3.0 GB of memory"),
    ],
)
def test_a_given_cluster_says_how_many_workers_its_nodes_can_run_now(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    rooms: list[tuple[int, float]],
    asked: dict[str, Any],
    told: str,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    nodes(monkeypatch, *rooms)
    with caplog.at_level(logging.INFO, logger="imgcls_ray"):
        plan_workers(num_gpus=0, **asked)
    [line] = caplog.messages
    assert told in line
    assert "can run now, the others start when it grows" in line


def test_more_cores_than_any_node_has_are_refused_where_no_larger_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes(monkeypatch, *[(8, 64)] * 4)
    refusal = r"16 CPUs \(1 workers of 16\) .* has 32 CPUs \(at most 8 on one node\) .* lower cores_per_worker"
    for memory in (None, LARGE):
        with pytest.raises(ResourceError, match=refusal):
            plan_workers(None, 0, cores_per_worker=16, memory=memory)
        with pytest.raises(ResourceError, match=refusal):
            plan_workers(1, 0, cores_per_worker=16, memory=memory)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ResourceError, match=refusal):
        plan_workers(None, 0, cores_per_worker=16)


def test_actors_of_several_cpus_are_counted_node_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes(monkeypatch, *[(3, 64)] * 4)
    for memory in (None, LARGE):
        assert plan_workers(None, 0, cores_per_worker=2, memory=memory).num_cpu_workers == 4


def test_actors_that_run_without_a_margin_ask_ray_for_their_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # A machine of 2 GB, of which Ray gives actors 1.2: each would rather have 0.8 beside its network.
    nodes(monkeypatch, (4, 1.2))
    small = WorkerMemory(NetworkMemory(once=100_000_000, per_core=200_000_000), rest=800_000_000)
    assert plan_workers(4, 0, memory=small) == WorkerPlan(4, bytes_per_worker=300_000_000)
    assert plan_workers(None, 0, memory=small) == WorkerPlan(1, bytes_per_worker=1_100_000_000)


def test_nodes_that_were_started_without_memory_are_asked_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes(monkeypatch, (4, 0), (4, 0))
    assert plan_workers(None, 0, memory=LARGE) == WorkerPlan(8)


def test_the_machines_own_ray_has_the_memory_that_the_machine_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", lambda **options: asked.update(options))
    for name, value in {
        "_is_ray_started": lambda: False,
        "starting_ray": lambda _: nullcontext(),
        "own_ray": lambda: {"address": "local"},
        "hush_ray": lambda: None,
        "available_memory": lambda: 123_000_000,
    }.items():
        monkeypatch.setattr(ray_cluster, name, value)
    ray_cluster.start_ray(uses_gpus=False)
    assert (asked["address"], asked["_memory"]) == ("local", 123_000_000)


def test_more_cores_than_the_machine_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgcls_ray.workers.ray_cluster.available_cores", lambda: 4)
    with pytest.raises(ResourceError, match="cores_per_worker=3 with num_workers=2 needs 6 CPUs"):
        check_local(2, cores_per_worker=3, uses_gpus=False, num_gpus=0, gpu_ids=())
    with pytest.raises(ResourceError, match="cores_per_worker=5 needs 5 CPUs"):
        check_local(1, cores_per_worker=5, uses_gpus=False, num_gpus=0, gpu_ids=())
