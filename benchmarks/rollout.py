"""The service while its model changes: to another one, to a broken one, and back, under a steady load.

It is deployed as operators do it, by Ray's REST API and with ``serve_config.yaml``, on a Ray of its own: one replica,
with all cores. A change is one of ``user_config`` alone.
"""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from benchmarks.bodies import CLASSIFY, SIZES, draw_jpegs, image_kinds
from benchmarks.common import available_cores, emit, isolated_environment, print_table, wait_for
from benchmarks.http_load import GOOD, ClosedLoop, Load, LoadResult, loading
from benchmarks.servers import Server, is_ready, pids_of, started
from benchmarks.serving_common import BENCHMARK, NUM_PICTURES, WARM_UP_S, in_ms, stderr_console, tell_checks
from imgcls_ray.serve.haproxy import front_binary
from imgcls_ray.serve.local import free_ports, port_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CONFIG = Path(__file__).parent.parent / "serve_config.yaml"
_CLIENTS = 8
_STEADY_S = 5.0
"""Before the first change, and after each."""
_MAX_CHANGE_S = 180.0
_MAX_LOAD_S = 3600.0


class Change(NamedTuple):
    """One change of ``user_config``, moments in seconds of the monotonic clock."""

    name: str
    asked: float
    settled: float
    """When the service said that it has taken, or refused, the model."""
    fingerprint: str
    """Of the model that has to answer from then on."""


class _Deployment:
    """The service on a Ray of its own, and how to change its model."""

    def __init__(self, server: Server, dashboard_port: int, session_config: dict[str, Any]) -> None:
        self.server = server
        self._dashboard_port = dashboard_port
        self._config = session_config

    def deploy(self, model: Path) -> None:
        """Ask for a model."""
        self._config["applications"][0]["deployments"][0]["user_config"] = {"model": str(model.resolve())}
        connection = http.client.HTTPConnection("127.0.0.1", self._dashboard_port, timeout=60)
        try:
            body = json.dumps(self._config)
            connection.request("PUT", "/api/serve/applications/", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise RuntimeError(f"{model}: not deployed: {response.read()[:1000]!r}")
        finally:
            connection.close()

    def told(self) -> dict[str, Any]:
        """What the service says of its model."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            connection.request("GET", "/v1/model")
            told: dict[str, Any] = json.load(connection.getresponse())
            return told
        finally:
            connection.close()

    def change(self, name: str, model: Path, *, is_good: bool) -> Change:
        """Ask for another model, wait until it answers or was refused, and let some time pass.

        Raises:
            RuntimeError: neither happens.
        """
        before, wanted = self.told()["fingerprint"], fingerprint_of(model)

        def is_settled() -> bool:
            told = self.told()
            return bool(told["fingerprint"] == wanted if is_good else told["refused"])

        asked = time.monotonic()
        self.deploy(model)
        if not wait_for(_MAX_CHANGE_S, is_settled, every_s=0.2):
            raise RuntimeError(f"{model}: neither taken nor refused")
        settled = time.monotonic()
        time.sleep(_STEADY_S)
        return Change(name, asked, settled, wanted if is_good else before)

    def replicas(self) -> list[int]:
        """Ids of the processes that answer."""
        return pids_of(self.server.session, "replica")


@contextmanager
def _deployed(model: Path, environment: Mapping[str, str]) -> Iterator[_Deployment]:
    port, gcs_port, dashboard_port, agent_port = free_ports(4)
    config = yaml.safe_load(_CONFIG.read_text(encoding="utf-8"))
    config["http_options"] |= {"host": "127.0.0.1", "port": int(port)}
    config["controller_options"]["runtime_env"]["env_vars"]["RAY_SERVE_HAPROXY_BINARY_PATH"] = front_binary()
    [application] = config["applications"]
    application["args"]["model"] = str(model.resolve())
    [deployment] = application["deployments"]
    deployment["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 1}
    deployment["ray_actor_options"]["num_cpus"] = available_cores()
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "start", "--head", "--block", "--disable-usage-stats", f"--num-cpus={available_cores()}"]
    ports = [f"--port={gcs_port}", f"--dashboard-port={dashboard_port}", f"--dashboard-agent-listen-port={agent_port}"]
    with started(
        [*command, *ports],
        {**environment, **port_environment(), "RAY_AUTH_MODE": "disabled"},
        Server(int(port), CLASSIFY, 0),
        is_up=lambda: is_ready(int(dashboard_port), "/api/serve/applications/"),
        stop_signal=signal.SIGTERM,
    ) as server:
        deployed = _Deployment(server, int(dashboard_port), config)
        deployed.deploy(model)
        if not wait_for(_MAX_CHANGE_S, lambda: is_ready(server.port, "/readyz"), every_s=0.5):
            raise RuntimeError(f"{model}: the service does not answer")
        yield deployed


def rollout(model: Path, other: Path, broken: Path | None) -> bool:
    """Change the model under load; says whether the service kept what it promises.

    Raises:
        SystemExit: both models are the same one, so that no change could be seen.
    """
    if fingerprint_of(model) == fingerprint_of(other):
        sys.exit(f"{model} and {other} hold the same model: no answer could show the change")
    with isolated_environment() as environment, tempfile.TemporaryDirectory(prefix="imgcls-broken-") as folder:
        if broken is None:
            broken = Path(folder, "broken")
            break_weights(model, broken)
        with _deployed(model, environment) as deployment:
            kinds = image_kinds(draw_jpegs(SIZES["110k"], NUM_PICTURES))
            arrivals = ClosedLoop(_CLIENTS)
            tag = b'"fingerprint":"'
            replicas = deployment.replicas()
            with loading(
                Load(deployment.server.port, kinds, arrivals, _MAX_LOAD_S, warm_up_s=WARM_UP_S, tag=tag)
            ) as load:
                time.sleep(WARM_UP_S + 2 * _STEADY_S)
                changes = [
                    deployment.change("another model", other, is_good=True),
                    deployment.change("a broken model", broken, is_good=False),
                    deployment.change("back", model, is_good=True),
                ]
                load.stop()
                result = load.wait()
            is_same_replica = bool(replicas) and deployment.replicas() == replicas
    return _tell(result, changes, fingerprint_of(model), is_same_replica=is_same_replica)


def break_weights(model: Path, output: Path) -> None:
    """Copy a model folder, with bytes in the middle of its weights flipped."""
    shutil.copytree(model, output)
    weights = output / "model.safetensors"
    content = bytearray(weights.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    weights.write_bytes(content)


def fingerprint_of(model: Path) -> str:
    """Of a model folder, as it says itself."""
    fingerprint: str = json.loads((model / "model.json").read_text(encoding="utf-8"))["fingerprint"]
    return fingerprint


def _tell(result: LoadResult, changes: list[Change], at_first: str, *, is_same_replica: bool) -> bool:
    good = result.is_good()
    asked_at = result.ended - result.latencies + result.start
    answered_at = result.ended + result.start
    steady = good & (answered_at < changes[0].asked)
    emit(BENCHMARK, "rollout: p99 before", 1000 * _p99(result, steady), "ms")
    rows = [["before", "", in_ms(_p99(result, steady)), ""]]
    is_right = True
    before = at_first
    for at, change in enumerate(changes):
        right = result.has_tag(change.fingerprint) & good
        changes_model = change.fingerprint != before
        first = float(answered_at[right & (answered_at >= change.asked)].min(initial=np.inf)) if changes_model else None
        until = changes[at + 1].asked if at + 1 < len(changes) else np.inf
        # Whoever asks after the first answer of the new model is answered by no other.
        after = good & (asked_at >= (first or change.asked)) & (answered_at <= until)
        num_wrong = int(np.count_nonzero(after & ~right))
        is_right = is_right and num_wrong == 0 and bool(after.any())
        during = good & (answered_at >= change.asked) & (answered_at <= change.settled)
        to_first = float("nan") if first is None else first - change.asked
        about = {"change": change.name, "wrong_model": num_wrong, "answers": int(np.count_nonzero(after))}
        if first is not None:
            emit(BENCHMARK, "rollout: until the first answer of the new model", to_first, "s", **about)
        emit(BENCHMARK, "rollout: until settled", change.settled - change.asked, "s", **about)
        emit(BENCHMARK, "rollout: p99 during the change", 1000 * _p99(result, during), "ms", **about)
        told = f"{change.settled - change.asked:.1f}" if first is None else f"{to_first:.1f}"
        rows.append([change.name, told, in_ms(_p99(result, during)), str(num_wrong)])
        before = change.fingerprint
    failed = result.num_failed()
    emit(BENCHMARK, "rollout: failed requests", failed, "requests", counts=result.counts(), examples=result.examples)
    columns = ("change", "s to the first answer, or the refusal", "p99 ms meanwhile", "answers of a wrong model")
    title = f"{_CLIENTS} clients, {result.good_rate():.0f} answers/s"
    print_table(columns, rows, title=title, console=stderr_console())
    checks = {
        f"every request was answered with {GOOD}": failed == 0,
        "each change was followed by answers of the right model alone": is_right,
        "the replica is the same": is_same_replica,
    }
    return tell_checks(checks, title="promises")


def _p99(result: LoadResult, chosen: np.ndarray) -> float:
    latencies = result.latencies[chosen]
    return float(np.percentile(latencies, 99)) if len(latencies) else float("nan")
