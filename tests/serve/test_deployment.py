"""The service as it is shipped, `serve deploy serve_config.yaml`, on a Ray of two nodes."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
import yaml

from imgcls_ray import create_model
from imgcls_ray.serve.haproxy import front_binary
from imgcls_ray.serve.local import free_ports, port_environment
from tests.conftest import make_small_model
from tests.jobs.cluster import ROOT, OwnCluster, environment
from tests.serve.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.models.folder import ModelFolder

# Minutes on two cores; what the default tests see of Ray Serve is in test_command.py.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SERVE = Path(sys.executable).with_name("serve")


class Deployment:
    """What was deployed, and how to ask it."""

    def __init__(self, cluster: OwnCluster, folder: Path) -> None:
        self.cluster = cluster
        self.config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        [port] = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        # Both nodes are this machine: there is one port to listen at.
        self.config["proxy_location"] = "HeadOnly"
        self.config["http_options"] |= {"host": "127.0.0.1", "port": int(port)}
        self.config["controller_options"]["runtime_env"]["env_vars"]["RAY_SERVE_HAPROXY_BINARY_PATH"] = front_binary()
        [self.application] = self.config["applications"]
        [self.deployment] = self.application["deployments"]
        self.deployment["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
        self._file = folder / "deployed.yaml"

    def deploy(self, user_config: dict[str, Any]) -> None:
        self.application["args"].setdefault("model", "")
        self.deployment["user_config"] = user_config
        self._file.write_text(yaml.safe_dump(self.config))
        command = [str(SERVE), "deploy", str(self._file), "-a", f"http://127.0.0.1:{self.cluster.port}"]
        subprocess.run(command, env=environment(), capture_output=True, check=True, timeout=60)

    def shutdown(self) -> None:
        command = [str(SERVE), "shutdown", "-y", "-a", f"http://127.0.0.1:{self.cluster.port}"]
        subprocess.run(command, env=environment(), capture_output=True, check=False, timeout=60)

    def classify(self, data: bytes) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/classify", content=data, headers={"content-type": "image/jpeg"}, timeout=30)

    def infos(self, count: int = 12) -> list[dict[str, Any]]:
        """What the replicas say of their models; each connection is another replica's."""
        return [httpx.get(f"{self.url}/v1/model", timeout=30).json() for _ in range(count)]

    def states(self) -> list[str]:
        """Of the replicas, as Serve tells them."""
        told = httpx.get(f"http://127.0.0.1:{self.cluster.port}/api/serve/applications/", timeout=30).json()
        return [replica["state"] for replica in told["applications"]["imgcls"]["deployments"]["Classifier"]["replicas"]]

    def replicas(self) -> list[psutil.Process]:
        """Of this cluster: another service may run on this machine too."""
        session = Path(self.cluster.session_dir).name
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if "".join(process.info["cmdline"] or ()).startswith("ray::ServeReplica:imgcls"):
                raylet = process.parent()
                if raylet is not None and session in " ".join(raylet.cmdline()):
                    found.append(process)
        return found


@contextmanager
def asking(
    deployment: Deployment, data: bytes, *, num_clients: int, pause_s: float
) -> Iterator[Counter[tuple[int, str]]]:
    """Clients that ask while the block runs; what they were answered, by status and model, is complete after it."""
    answers: Counter[tuple[int, str]] = Counter()
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            # A connection each: while HAProxy takes over a new configuration it may close those that are idle.
            answer = deployment.classify(data)
            fingerprint = answer.json().get("model", {}).get("fingerprint", answer.text[:100])
            answers[answer.status_code, fingerprint] += 1
            time.sleep(pause_s)

    threads = [threading.Thread(target=ask) for _ in range(num_clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def model_b(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return make_small_model(tmp_path_factory.mktemp("model-b") / "b", seed=1)


@pytest.fixture(scope="module")
def deployment(small_model: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with pytest.MonkeyPatch.context() as patch:
        for name, port in port_environment().items():
            patch.setenv(name, port)
        # Nothing but the HAProxy of this machine has to learn that a replica goes.
        patch.setenv("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")
        patch.setenv("RAY_worker_niceness", "0")
        cluster = OwnCluster()
        cluster.add_node()
        deployment = Deployment(cluster, tmp_path_factory.mktemp("deployed"))
        deployment.application["args"]["model"] = str(small_model.path)
        try:
            deployment.deploy({"model": str(small_model.path)})
            wait_for(lambda: httpx.get(f"{deployment.url}/readyz").json() == {"status": "ready"}, 120)
            wait_for(lambda: len(deployment.replicas()) == 2)
            yield deployment
        finally:
            deployment.shutdown()
            cluster.shutdown()


def test_both_replicas_label_as_everything_else_does(
    deployment: Deployment, small_model: ModelFolder, draw_images: Callable[..., list[Path]]
) -> None:
    paths = draw_images(12)
    expected = [result.label for result in create_model(small_model.path).predict(paths)]
    found = [deployment.classify(path.read_bytes()).json()["results"][0]["predictions"][0]["label"] for path in paths]
    assert found == expected
    assert len({process.pid for process in deployment.replicas()}) == 2


def test_a_request_that_is_too_large_is_refused_also_without_a_length(deployment: Deployment) -> None:
    def endless() -> Iterator[bytes]:
        yield from itertools.repeat(bytes(2**20), 40)

    for content in (bytes(40 * 2**20), endless()):
        try:
            answer = httpx.post(
                f"{deployment.url}/v1/classify", content=content, headers={"content-type": "image/jpeg"}
            )
        except httpx.TransportError:
            continue  # the connection was closed before all was sent: the answer may be lost with it
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "payload_too_large"
    assert httpx.get(f"{deployment.url}/readyz").status_code == 200


def test_callers_cannot_move_the_deadline_and_every_error_is_typed(
    deployment: Deployment, draw_images: Callable[..., list[Path]]
) -> None:
    [path] = draw_images(1)
    headers = {
        "content-type": "image/jpeg",
        "x-request-timeout-seconds": "0.000001",
        "x-request-id": "mine-1",
    }
    answer = httpx.post(f"{deployment.url}/v1/classify", content=path.read_bytes(), headers=headers)
    assert answer.status_code == 200
    assert answer.headers.get_list("x-request-id") == ["mine-1"]
    missing = httpx.get(f"{deployment.url}/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


def test_models_change_under_load_and_a_broken_one_is_refused(
    deployment: Deployment,
    small_model: ModelFolder,
    model_b: ModelFolder,
    draw_images: Callable[..., list[Path]],
    tmp_path: Path,
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model_b.path, broken)
    weights = bytearray((broken / "model.safetensors").read_bytes())
    weights[-100] ^= 0xFF
    (broken / "model.safetensors").write_bytes(weights)
    [path] = draw_images(1)
    pids = {process.pid for process in deployment.replicas()}
    a, b = small_model.spec.fingerprint, model_b.spec.fingerprint
    with asking(deployment, path.read_bytes(), num_clients=3, pause_s=0.05) as answers:
        deployment.deploy({"model": str(model_b.path)})
        wait_for(lambda: {info["fingerprint"] for info in deployment.infos()} == {b}, 90)
        deployment.deploy({"model": str(broken)})
        wait_for(lambda: all(info["refused"] for info in deployment.infos()))
        assert {info["fingerprint"] for info in deployment.infos()} == {b}
    assert {status for status, _ in answers} == {200}, answers
    assert {fingerprint for _, fingerprint in answers} == {a, b}
    assert {process.pid for process in deployment.replicas()} == pids

    # The file still names the broken model; a replica that dies now must come back with the one that answers.
    victim = deployment.replicas()[0]
    os.kill(victim.pid, signal.SIGKILL)
    wait_for(lambda: len({p.pid for p in deployment.replicas()} - {victim.pid}) == 2, 90)
    wait_for(lambda: len([info for info in deployment.infos() if info["fingerprint"] == b]) == 12, 60)
    assert all(info["refused"] for info in deployment.infos())


def test_a_canary_gets_its_share(
    deployment: Deployment, small_model: ModelFolder, model_b: ModelFolder, draw_images: Callable[..., list[Path]]
) -> None:
    canary = {"model": str(model_b.path), "share": 0.5}
    deployment.deploy({"model": str(small_model.path), "canary": canary, "shadow": {**canary, "share": 1.0}})
    wait_for(lambda: all(info.get("canary") and not info["refused"] for info in deployment.infos()))
    data = draw_images(1)[0].read_bytes()
    roles = Counter(deployment.classify(data).json()["model"]["role"] for _ in range(60))
    assert 12 < roles["canary"] < 48
    assert roles["canary"] + roles["stable"] == 60


def test_prometheus_sees_requests_images_and_models(deployment: Deployment) -> None:
    def pages() -> str:
        return "".join(httpx.get(f"http://127.0.0.1:{port}/metrics").text for port in deployment.cluster.metrics_ports)

    names = [
        "imgcls_requests_total",
        "imgcls_request_seconds_bucket",
        "imgcls_images_total",
        "imgcls_labels_total",
        "imgcls_decode_seconds_bucket",
        "imgcls_forward_seconds_bucket",
        "imgcls_batch_images_bucket",
        "imgcls_model_loaded",
        "imgcls_waiting_images",
        "imgcls_shadow_total",
    ]
    wait_for(lambda: all(name in pages() for name in names), 40)


def test_replicas_go_and_come_with_the_requests_and_none_of_those_fails(
    deployment: Deployment, draw_images: Callable[..., list[Path]]
) -> None:
    data = draw_images(1, size=(1600, 1200))[0].read_bytes()
    deployment.deployment["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 2, "downscale_delay_s": 5}
    with asking(deployment, data, num_clients=1, pause_s=0.5) as few:
        deployment.deploy(deployment.deployment["user_config"])
        wait_for(lambda: len(deployment.replicas()) == 1, 120)
    [left] = deployment.replicas()
    with asking(deployment, data, num_clients=12, pause_s=0) as many:
        wait_for(lambda: deployment.states() == ["RUNNING"] * 2, 120)
        time.sleep(2)  # in which both answer
    assert left.pid in {process.pid for process in deployment.replicas()}
    assert {status for status, _ in few} == {status for status, _ in many} == {200}, (few, many)
