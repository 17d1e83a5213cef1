"""A Ray of several nodes on this machine, which the process of the tests does not join."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.cluster_utils import Cluster
from ray.experimental import internal_kv

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
RAY = Path(sys.executable).with_name("ray")
_NODE: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 * 2**20}
# A node is dead after five checks in a row that find nothing there; Ray's default is three seconds between them. One
# that is only slow has as long as ever: it has ten seconds to answer each.
_CLUSTER = {"health_check_period_ms": 500}


class OwnCluster:
    """A head of one CPU with a dashboard, and the nodes added to it."""

    def __init__(self) -> None:
        self.port = _free_port()
        # Ray's default for the agent is one fixed port, which another Ray of this machine may hold.
        ports = {"dashboard_port": self.port, "dashboard_agent_listen_port": _free_port()}
        head: dict[str, Any] = {**_NODE, "include_dashboard": True, "_system_config": _CLUSTER, **ports}
        with _keep_own_table():
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self._wait_for_job_agent()

    def add_node(self, **options: Any) -> Any:
        with _keep_own_table():
            return self._cluster.add_node(**_NODE, **options)

    @property
    def session_dir(self) -> str:
        head: Any = self._cluster.head_node
        session: str = head.get_session_dir_path()
        return session

    @property
    def metrics_ports(self) -> list[int]:
        """Where each node shows its metrics to Prometheus."""
        nodes = self._cluster.list_all_nodes()  # type: ignore[no-untyped-call]
        return [node.metrics_export_port for node in nodes]

    def kill_node(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def _wait_for_job_agent(self) -> None:
        """The agent that starts jobs comes up some seconds after the node that it belongs to; until then, jobs are
        refused."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/jobs/",
            data=json.dumps({"entrypoint": "true"}).encode(),
            headers={"Content-Type": "application/json"},
        )
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(request, timeout=10).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def shutdown(self) -> None:
        with _keep_own_table():
            self._cluster.shutdown()  # type: ignore[no-untyped-call]


@contextmanager
def _keep_own_table() -> Iterator[None]:
    """Ray takes each node that this process starts for its own: what it then asks the table of its head node, it asks
    that of a cluster which is shut down soon. A client that finds no table for a minute ends the process."""
    client = internal_kv.global_gcs_client
    try:
        yield
    finally:
        internal_kv.global_gcs_client = client


def environment(**values: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    return {**kept, "RAY_AUTH_MODE": "disabled", **values}


def submit(port: int, name: str, *args: object) -> subprocess.CompletedProcess[str]:
    """``ray job submit`` of the predict job."""
    job = (sys.executable, "jobs/predict.py", *map(str, args))
    command = [RAY, "job", "submit", "--address", f"http://127.0.0.1:{port}", "--submission-id", name]
    entrypoint = [str(word) for word in (*command, "--working-dir", ROOT, "--", *job)]
    return subprocess.run(entrypoint, env=environment(), capture_output=True, text=True, timeout=120, check=False)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port
