"""Which actors a Ray may be asked for."""

from __future__ import annotations

import logging

import pytest

from imgcls_ray.data.cluster import WorkerPlan, plan_workers
from imgcls_ray.errors import ResourceError


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray of two CPUs and one GPU."""
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
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
    monkeypatch.setattr("ray.cluster_resources", dict)
    with pytest.raises(ResourceError, match="give num_workers, and the cluster grows"):
        plan_workers(None, 0)
    assert plan_workers(8, 0) == WorkerPlan(8, 0)
