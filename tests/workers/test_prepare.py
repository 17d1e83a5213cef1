"""What is done before workers start: in processes of their own, and what is only a help ends nothing."""

from __future__ import annotations

import logging
import os
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.errors import JobFailedError
from imgcls_ray.models.engines.memory import NetworkMemory
from imgcls_ray.workers import prepare
from imgcls_ray.workers.plan import WorkerPlan
from imgcls_ray.workers.prepare import _in_new_process, _Network, _prepare_and_measure, _start_on_ray

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder

MEMORY = NetworkMemory(once=7, per_core=3)


@pytest.fixture
def network(small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Network:
    """Which is prepared, and of which nothing else is known."""
    monkeypatch.setattr(prepare, "known_memory", lambda *_, **__: None)
    monkeypatch.setattr(prepare, "preparation_of", lambda *_: None)
    paths = {"input": "a", "model": str(small_model.path), "output": str(tmp_path / "store")}
    config = make_config(PredictConfig, {**paths, "logits": False})
    return _Network(small_model, config, embedding=False, precision="auto")


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (RuntimeError("Exception from src/core:\nno such\nlayer"), "Exception from src/core: no such layer"),
        (BrokenProcessPool("A process was terminated abruptly"), "A process was terminated abruptly"),
        (JobFailedError("a process ended: signal 9"), "a process ended: signal 9"),
        (MemoryError("no memory"), "no memory"),
    ],
)
def test_a_failure_of_measuring_is_one_line_and_ends_nothing(
    network: _Network, caplog: pytest.LogCaptureFixture, failure: Exception, words: str
) -> None:
    def fail(_: Callable[[], Any]) -> None:
        raise failure

    with caplog.at_level(logging.INFO, logger="imgcls_ray"):
        assert network.memory(fail) is None
    [line] = caplog.messages
    assert line.endswith(f"memory the network needs is not known ({words}), so the workers follow from the cores alone")
    assert "\n" not in line


def test_what_was_measured_counts_also_where_it_cannot_be_kept(network: _Network) -> None:
    assert network.memory(lambda _: [7, 3]) == MEMORY
    assert network.memory(lambda _: None) is None


def test_where_nothing_can_be_measured_no_process_is_started(
    network: _Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "can_measure", lambda: False)
    assert network.memory(lambda _: pytest.fail("a process for nothing")) is None
    assert network.preparation("cpu") is None


def test_a_network_whose_preparation_cannot_be_kept_is_not_measured_with_it(
    network: _Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "preparation_of", lambda *_: "conversion")
    assert network.memory(lambda _: pytest.fail("it is converted once more")) is None


def test_a_small_node_that_gives_the_command_does_not_load_what_its_workers_load(
    network: _Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prepare, "available_memory", lambda: 200_000_000)
    assert network.memory(lambda _: MEMORY) == MEMORY
    with caplog.at_level(logging.INFO, logger="imgcls_ray"):
        assert network.memory(lambda _: pytest.fail("it is loaded here"), on_cluster=True) is None
    assert "this machine has 0.2 GB left" in caplog.text


def test_the_network_is_measured_in_another_process_than_it_is_prepared_in(
    network: _Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def call(function: Any) -> Any:
        called.append(function.__name__)
        monkeypatch.setattr(prepare, "preparation_of", lambda *_: None)
        return MEMORY if function.__name__ == "measure" else []

    monkeypatch.setattr(prepare, "_in_new_process", call)
    monkeypatch.setattr(prepare, "preparation_of", lambda *_: "check")
    assert _prepare_and_measure(network, "cpu", "check", on_cluster=False) == MEMORY
    assert called == ["prepare_for_cpus", "measure"]
    assert _prepare_and_measure(network, "cuda", None, on_cluster=False) is None
    assert called == ["prepare_for_cpus", "measure"]


def test_what_the_process_warns_of_that_checks_a_network_is_told(
    network: _Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own log is seen by nobody; and what is wrong with a network that is converted was told before."""
    monkeypatch.setattr(prepare, "prepare_engine", lambda *_: logging.getLogger("imgcls_ray.x").warning("%s", "aside"))
    warnings = network.prepare_for_cpus()
    assert warnings == ["aside"]
    monkeypatch.setattr(prepare, "_in_new_process", lambda _: warnings)
    monkeypatch.setattr(_Network, "memory", lambda *_, **__: MEMORY)
    caplog.clear()
    _prepare_and_measure(network, "cpu", "conversion", on_cluster=False)
    assert caplog.messages == []
    _prepare_and_measure(network, "cpu", "check", on_cluster=False)
    assert caplog.messages == ["aside"]


def test_each_call_has_a_process_of_its_own() -> None:
    pids = [_in_new_process(os.getpid) for _ in range(2)]
    assert len({*pids, os.getpid()}) == 3


def test_the_death_of_what_prepares_is_one_line(network: _Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(_: Any) -> None:
        raise BrokenProcessPool("A process was terminated abruptly")

    monkeypatch.setattr(prepare, "_in_new_process", die)
    monkeypatch.setattr(prepare, "preparation_of", lambda *_: "conversion")
    with pytest.raises(JobFailedError, match="a process that was to get the workers ready ended: A process was"):
        _prepare_and_measure(network, "cpu", "conversion", on_cluster=False)


def test_whether_a_cluster_is_given_is_asked_before_ray_is_started(
    network: _Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The own Ray of a command is none; and while it is imported, a thread cannot ask."""
    happened: list[str] = []
    measured: list[bool] = []

    def prepare_and_measure(*_: Any, on_cluster: bool) -> None:
        measured.append(on_cluster)

    def is_on_cluster(_: Any) -> bool:
        happened.append("asked")
        return "started" in happened

    monkeypatch.setattr(prepare, "is_on_cluster", is_on_cluster)
    monkeypatch.setattr(prepare, "start_ray", lambda **_: happened.append("started"))
    monkeypatch.setattr(prepare, "_prepare_and_measure", prepare_and_measure)
    monkeypatch.setattr(prepare, "plan_workers", lambda *_, **__: WorkerPlan(1))
    _start_on_ray(network, num_gpus=0)
    assert (happened, measured) == (["asked", "started"], [False])


@pytest.mark.parametrize(("shared", "once"), [("auto", 7), ("bf16", 7), ("fp32", 14)])
def test_actors_have_the_memory_of_the_precision_that_all_nodes_have(
    network: _Network, monkeypatch: pytest.MonkeyPatch, shared: str, once: int
) -> None:
    def known(_: Any, *, precision: str, **__: Any) -> NetworkMemory:
        return MEMORY._replace(once=14) if precision == "fp32" else MEMORY

    planned: list[Any] = []

    def plan_workers(*_: Any, memory: Any, **__: Any) -> WorkerPlan:
        planned.append(memory)
        return WorkerPlan(1)

    monkeypatch.setattr(prepare, "known_memory", known)
    monkeypatch.setattr(prepare, "start_ray", lambda **_: None)
    monkeypatch.setattr(prepare, "precision_of_nodes", lambda _: shared)
    monkeypatch.setattr(prepare, "plan_workers", plan_workers)
    _start_on_ray(network, num_gpus=0)
    assert [memory.network.once for memory in planned] == [once]
