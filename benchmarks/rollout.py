"""The service while its model changes: to another one, to a broken one, and back, under a steady load."""

from __future__ import annotations

import http.client
import json
import logging
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil

from benchmarks.bodies import SIZES, draw_jpegs, image_kinds
from benchmarks.common import available_cores, emit, isolated_environment, print_table, wait_for
from benchmarks.http_load import ClosedLoop, Load, LoadResult, loading
from benchmarks.servers import free_port, pids_of
from benchmarks.serving import BENCHMARK, NUM_PICTURES, WARM_UP_S, in_ms, num_failed, stderr_console, tell_checks

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLIENTS = 8
_STEADY_S = 5.0
"""Before the first change, and after each."""
_MAX_CHANGE_S = 180.0
_MAX_LOAD_S = 3600.0


class Change(NamedTuple):
    """One change of ``user_config``, moments in seconds of the monotonic clock."""

    name: str
    asked: float
    done: float
    """Until the service said that it has taken, or refused, the model."""
    fingerprint: str
    """Of the model that has to answer from then on."""


def rollout(model: Path, other: Path, broken: Path | None) -> bool:
    """Change the model under load; says whether the service kept what it promises."""
    with isolated_environment() as environment, tempfile.TemporaryDirectory(prefix="imgcls-broken-") as folder:
        if broken is None:
            broken = Path(folder, "broken")
            break_weights(model, broken)
        os.environ.pop("RAY_ADDRESS", None)
        os.environ.update({**environment, "RAY_AUTH_MODE": "disabled"})
        with _service(model) as service:
            kinds = image_kinds(draw_jpegs(SIZES["110k"], NUM_PICTURES))
            load = Load(
                service.port, kinds, ClosedLoop(_CLIENTS), _MAX_LOAD_S, warm_up_s=WARM_UP_S, tag=b'"fingerprint":"'
            )
            pids = service.replica_pids()
            with loading(load) as loaded:
                time.sleep(WARM_UP_S + _STEADY_S)
                changes = [
                    service.change("another model", other),
                    service.change("a broken model", broken),
                    service.change("back", model),
                ]
                loaded.stop()
                result = loaded.wait()
            is_same_replica = service.replica_pids() == pids
    return _tell(result, changes, _fingerprint(model), is_same_replica=is_same_replica)


def break_weights(model: Path, output: Path) -> None:
    """Copy a model folder, with bytes in the middle of its weights flipped."""
    shutil.copytree(model, output)
    weights = output / "model.safetensors"
    content = bytearray(weights.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    weights.write_bytes(content)


def _fingerprint(model: Path) -> str:
    fingerprint: str = json.loads((model / "model.json").read_text())["fingerprint"]
    return fingerprint


class _Service:
    """The service on a Ray of this process."""

    def __init__(self, config: Any, cores: int) -> None:
        self.port: int = config.port
        self._config = config
        self._cores = cores
        self._answering = ""

    def deploy(self, model: Path) -> None:
        """Ask for a model; another than the last one's is a change of ``user_config`` alone."""
        from ray import serve

        from imgcls_ray.serve.deployment import application

        # What the deployment is made of stays as it was: another argument would start the replicas anew.
        app = application(self._config, num_replicas=1, ray_actor_options={"num_cpus": self._cores})
        user_config = self._config.models().model_copy(update={"model": str(model)}).model_dump(mode="json")
        serve.run(_with_user_config(app, user_config), name="imgcls", logging_config=_LOGS)

    def change(self, name: str, model: Path) -> Change:
        """Ask for a model, wait until it has come or was refused, and let some time pass.

        Raises:
            RuntimeError: neither happens.
        """
        before = self.told()["fingerprint"]
        wanted = _fingerprint(model)
        asked = time.monotonic()
        self.deploy(model)
        if not wait_for(_MAX_CHANGE_S, lambda: _is_settled(self.told(), before, wanted), every_s=0.1):
            raise RuntimeError(f"{model}: neither taken nor refused")
        done = time.monotonic()
        time.sleep(_STEADY_S)
        return Change(name, asked, done, self.told()["fingerprint"])

    def told(self) -> dict[str, Any]:
        """What the service says of its model."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", "/v1/model")
            told: dict[str, Any] = json.load(connection.getresponse())
            return told
        finally:
            connection.close()

    def replica_pids(self) -> list[int]:
        return pids_of(psutil.Process().children(recursive=True), "replica")
