"""A service on this machine alone: a Ray of its own, which ends with it."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imgcls_ray.errors import JobFailedError
from imgcls_ray.serve.admission.proxy import MAX_BYTES_VARIABLE, SERVE_ENVIRONMENT
from imgcls_ray.serve.haproxy import BINARY_VARIABLE, HOST_VARIABLE, REAL_BINARY_VARIABLE, front_binary
from imgcls_ray.workers.ray_start import hush_ray, own_ray, run_folder, starting_ray

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.config import ServeConfig

APPLICATION = "imgcls"
_LOCAL_ENVIRONMENT = {
    **SERVE_ENVIRONMENT,
    # Ray lets its workers give way to everything else on the machine; whoever waits for an answer would wait for that.
    "RAY_worker_niceness": "0",
    # Nobody but the HAProxy beside them has to learn that replicas go.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# Of HAProxy's own pages and of the proxy that it falls back on: fixed by default, so that a second service on the same
# machine would find them taken.
_PORT_VARIABLES = (
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)
# HAProxy's files, in one folder of /tmp by default: there the first user who serves keeps all others from it, and its
# admin socket takes commands from everybody.
_PATH_VARIABLES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "a",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "state",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "m",
}
_OBJECT_STORE_BYTES = 128 * 2**20  # nothing passes through it
# Replicas keep the deadline themselves; Serve's is for one that cannot any more.
_MORE_TIMEOUT_S = 5


@contextmanager
def local_service(config: ServeConfig, num_cores: int) -> Iterator[int]:
    """Answer while the block runs; when it ends, requests in work are answered first.

    Yields:
        The port of the metrics.

    Raises:
        JobFailedError: no replica came up.
        StorageError: the temporary folder has no place for Ray's files.
    """
    with starting_ray():
        own = own_ray()
        folder = str(run_folder())
    for key, value in _own_front(config.host).items():
        os.environ[key] = value
    for key, value in {
        **_LOCAL_ENVIRONMENT,
        **{name: f"{folder}/{file}".rstrip("/") for name, file in _PATH_VARIABLES.items()},
        # Serve's four threads are for a machine of their own; HAProxy takes a tenth of what its replicas do.
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(4, num_cores // 4))),
        **port_environment(),
        MAX_BYTES_VARIABLE: str(config.max_request_bytes),
    }.items():
        os.environ.setdefault(key, value)
    # Ray Serve reads the environment when it is imported.
    import ray
    from ray import serve

    # What it says of itself is for operators of clusters.
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    metrics_port = config.metrics_port or int(free_ports(1)[0])
    hush_ray()
    with starting_ray():
        ray.init(
            **own,
            num_cpus=num_cores,
            object_store_memory=_OBJECT_STORE_BYTES,
            _metrics_export_port=metrics_port,
        )
    try:
        _deploy(config, num_cores)
        try:
            yield metrics_port
        finally:
            # Replicas first: Serve's shutdown ends the proxy before them, and with it the requests in work.
            serve.delete(APPLICATION)
            serve.shutdown()  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()


def num_local_replicas(config: ServeConfig, num_cores: int) -> int:
    """How many processes answer on this machine.

    Threads of one process share one interpreter, which the bookkeeping for small images keeps busy: two processes of
    one core answer up to twice as many requests as one of two.
    """
    return config.num_replicas or (1 if config.uses_gpus else num_cores)


def port_environment() -> dict[str, str]:
    """Free ports for what Serve and HAProxy would open at fixed ones."""
    return dict(zip(_PORT_VARIABLES, free_ports(len(_PORT_VARIABLES)), strict=True))


def _own_front(host: str) -> dict[str, str]:
    """Let HAProxy, if there is one, listen where the service is to be asked; everything behind it is on loopback.

    Raises:
        JobFailedError: this package is only half installed.
    """
    os.environ.pop(HOST_VARIABLE, None)
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY", SERVE_ENVIRONMENT["RAY_SERVE_ENABLE_HA_PROXY"]) != "1":
        return {}
    try:
        front = front_binary()
    except FileNotFoundError as error:
        raise JobFailedError(str(error)) from error
    given = os.environ.get(BINARY_VARIABLE, front)
    return {HOST_VARIABLE: host, BINARY_VARIABLE: front, **({} if given == front else {REAL_BINARY_VARIABLE: given})}


def free_ports(count: int) -> list[str]:
    """Ports that nothing listens at now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("", 0))
        return [str(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _deploy(config: ServeConfig, num_cores: int) -> None:
    from ray import serve

    from imgcls_ray.serve.deployment import application

    logs = {"encoding": "JSON", "enable_access_log": False}
    # Serve's own actors ask for no core: all of them are for replicas.
    num_replicas = num_local_replicas(config, num_cores)
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={
                # The replicas' own ports are at this host too. HAProxy, which stands before them, listens at the
                # asked-for one.
                "host": "127.0.0.1" if HOST_VARIABLE in os.environ else config.host,
                "port": config.port,
                "request_timeout_s": config.request_timeout_s + _MORE_TIMEOUT_S,
            },
            logging_config=logs,
        )
        serve.run(
            application(config, num_cpus=num_cores // num_replicas, num_replicas=num_replicas),
            name=APPLICATION,
            logging_config=logs,
        )
    except RuntimeError as error:
        raise JobFailedError(f"the service did not start: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The last line that says something, of Serve's story about its tries."""
    lines = [line.strip() for line in str(error).splitlines() if "Error" in line]
    return (lines[-1] if lines else str(error).strip())[-400:]
