"""The process that workers are forked from, begun before the command's own imports."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.commands import predict, train
from imgcls_ray.commands.predict import WORKERS
from imgcls_ray.config import PredictConfig, TrainConfig, make_config
from imgcls_ray.predict.label import serve_labelling
from imgcls_ray.train import WORKER
from imgcls_ray.workers import ahead, pool
from imgcls_ray.workers.ahead import loading_ahead
from imgcls_ray.workers.prepare import local_pool

if TYPE_CHECKING:
    from imgcls_ray.workers.forks import ForkServer

DATA = {"input": "in", "model": "m", "output": "o"}


class Server:
    """What stands for a process that loads."""

    def __init__(self, module: str, function: str, *, keeps_memory: bool) -> None:
        assert not keeps_memory
        self.begun, self.is_closed, self.is_gone = (module, function), False, False

    def close(self) -> None:
        self.is_closed = self.is_gone = True


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "ForkServer", Server)
    monkeypatch.setattr(pool, "is_cluster_given", lambda: False)


def begun(**values: object) -> ForkServer | None:
    config = make_config(PredictConfig, {**DATA, **values})
    with loading_ahead(partial(predict.is_surely_here, config), *WORKERS) as server:
        return server


def test_a_job_of_this_machine_begins_to_load_its_workers_and_ends_them() -> None:
    server: Any = begun(device="cpu")
    assert server.begun == (serve_labelling.__module__, serve_labelling.__name__)
    assert server.is_closed


def trains_here(**values: object) -> bool:
    config = make_config(TrainConfig, {"data": "d", "model": "m", **values})
    with loading_ahead(partial(train.is_surely_here, config), *WORKER) as server:
        return server is not None


def test_a_training_of_one_worker_on_cpus_begins_to_load_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "may_have_gpus", lambda: True)
    assert trains_here(device="cpu")
    assert trains_here(device="cpu", num_workers=1)
    assert not trains_here(device="cpu", num_workers=2)
    assert not trains_here(device="gpu")
    assert not trains_here()
    monkeypatch.setattr(ahead, "may_have_gpus", lambda: False)
    assert trains_here()
    monkeypatch.setattr(pool, "is_cluster_given", lambda: True)
    assert not trains_here()


def test_what_may_run_elsewhere_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "may_have_gpus", lambda: True)
    assert begun() is None
    assert begun(device="gpu") is None
    assert begun(device="cpu", on="ray") is None
    assert begun(on="local") is not None
    monkeypatch.setattr(ahead, "may_have_gpus", lambda: False)
    assert begun() is not None
    monkeypatch.setattr(pool, "is_cluster_given", lambda: True)
    assert begun(device="cpu") is None


def test_the_pool_takes_what_was_begun() -> None:
    config = make_config(PredictConfig, {**DATA, "device": "cpu"})
    with loading_ahead(lambda: True, *WORKERS) as server, local_pool(config, serve_labelling, server=server) as local:
        local.load()
        assert local._server is server


def test_nothing_that_takes_long_is_imported_before_it_begins() -> None:
    heavy = ("numpy", "pyarrow", "PIL", "torch", "openvino")
    code = f"import sys, imgcls_ray.commands.predict; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
