"""`serve deploy` on a cluster of two nodes that asks for a token, as docs/running.md says to start it."""

from __future__ import annotations

import functools
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
import yaml

from imgcls_ray.serve.haproxy import front_binary
from imgcls_ray.serve.local import free_ports, port_environment
from tests.jobs.cluster import RAY, ROOT, environment
from tests.listening import Listener
from tests.serve.waiting import NOT_YET, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.models.folder import ModelFolder

pytestmark = pytest.mark.slow

SERVE = Path(sys.executable).with_name("serve")
NODES = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
PATIENCE_S = 180


class TokenCluster:
    """A head and a node of one CPU each, and what their users have in their environment."""

    def __init__(self, home: Path) -> None:
        self.gcs_port, self.dashboard_port, self.worker_port = map(int, free_ports(3))
        self.dashboard = f"http://127.0.0.1:{self.dashboard_port}"
        values = {key: value for key, value in environment(HOME=str(home)).items() if key != "RAY_AUTH_MODE"}
        self.stranger = values
        self.user = {**values, "RAY_AUTH_MODE": "token"}
        self.token = home / ".ray" / "auth_token"

    def run(self, command: list[str], *, is_user: bool) -> subprocess.CompletedProcess[str]:
        """One command of somebody who has the token, or of somebody who has not."""
        env = self.user if is_user else {**self.stranger, "HOME": "/nonexistent", "RAY_AUTH_MODE": "disabled"}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@contextmanager
def node(env: dict[str, str], *arguments: str) -> Iterator[None]:
    """One node, which ends with the block."""
    command = [str(RAY), "start", "--block", "--disable-usage-stats", "--num-cpus=1", "--num-gpus=0", *arguments]
    command += [f"--dashboard-agent-listen-port={free_ports(1)[0]}", f"--object-store-memory={100 * 2**20}"]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        children: list[psutil.Process] = []
        try:
            yield
        finally:
            children = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(60)
            for child in psutil.wait_procs(children, timeout=30)[1]:
                child.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenCluster]:
    cluster = TokenCluster(tmp_path_factory.mktemp("home"))
    made = cluster.run([str(RAY), "get-auth-token", "--generate"], is_user=True)
    assert made.returncode == 0, made.stderr
    assert cluster.token.exists()
    with ExitStack() as nodes:
        head = ("--head", f"--port={cluster.gcs_port}", f"--dashboard-port={cluster.dashboard_port}")
        nodes.enter_context(node({**cluster.user, **port_environment()}, *head))
        address = f"--address=127.0.0.1:{cluster.gcs_port}"
        wait_patiently(lambda: len(nodes_of(cluster)) == 1)
        # Both nodes are this machine, so each needs ports of its own.
        ports = {**port_environment(), "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(cluster.worker_port)}
        nodes.enter_context(node({**cluster.user, **ports}, address))
        wait_patiently(lambda: len(nodes_of(cluster)) == 2)
        yield cluster


def authorized(cluster: TokenCluster) -> dict[str, str]:
    return {"authorization": f"Bearer {cluster.token.read_text().strip()}"}


def nodes_of(cluster: TokenCluster) -> list[Any]:
    answer = httpx.get(f"{cluster.dashboard}/api/v0/nodes", headers=authorized(cluster), timeout=30)
    found: list[Any] = answer.json()["data"]["result"]["result"]
    return found


def wait_patiently(condition: Callable[[], bool]) -> None:
    wait_for(condition, PATIENCE_S, not_yet=(*NOT_YET, TypeError))


def is_ready(url: str) -> bool:
    return bool(httpx.get(f"{url}/readyz", timeout=30).json() == {"status": "ready"})


def deploy_command(cluster: TokenCluster, config: dict[str, Any], file: Path) -> list[str]:
    file.write_text(yaml.safe_dump(config))
    return [str(SERVE), "deploy", str(file), "-a", cluster.dashboard]


def shipped_config(model: ModelFolder, port: int) -> dict[str, Any]:
    """serve_config.yaml with what it marks as CHANGE, and one replica for each node."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["controller_options"]["runtime_env"]["env_vars"]["RAY_SERVE_HAPROXY_BINARY_PATH"] = front_binary()
    config["http_options"] |= {"host": "0.0.0.0", "port": port}
    [application] = config["applications"]
    application["args"]["model"] = str(model.path)
    [deployment] = application["deployments"]
    deployment["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    deployment["user_config"] = {"model": str(model.path)}
    return config


def test_who_has_the_token_deploys_and_submits_and_who_has_not_does_not(
    cluster: TokenCluster, small_model: ModelFolder, draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    port = int(free_ports(1)[0])
    deploy = deploy_command(cluster, shipped_config(small_model, port), tmp_path / "serve.yaml")
    submit = [str(RAY), "job", "submit", "--address", cluster.dashboard, "--", "true"]

    for command in (deploy, submit):
        refused = cluster.run(command, is_user=False)
        assert refused.returncode != 0
        assert "nauthorized" in refused.stdout + refused.stderr or "uthentication" in refused.stdout + refused.stderr
    assert httpx.get(f"{cluster.dashboard}/api/jobs/", timeout=30).status_code == 401
    assert Listener("gcs_server", "0.0.0.0", cluster.gcs_port).refuses(NODES)

    done = cluster.run(submit, is_user=True)
    assert done.returncode == 0, done.stdout + done.stderr
    done = cluster.run(deploy, is_user=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [image] = draw_images(1)
    for number in (port, cluster.worker_port):
        url = f"http://127.0.0.1:{number}"
        wait_patiently(functools.partial(is_ready, url))
        answer = httpx.post(
            f"{url}/v1/classify", content=image.read_bytes(), headers={"content-type": "image/jpeg"}, timeout=60
        )
        assert answer.json()["results"][0]["status"] == "ok"
    cluster.run([str(SERVE), "shutdown", "-y", "-a", cluster.dashboard], is_user=True)
