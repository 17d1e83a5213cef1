"""What a refused request costs: CPU time of the replica, of HAProxy and of the client.

``python -m benchmarks.refusals``

The replica is full and has nothing else to do. It runs as Ray Serve runs it (uvicorn), with this package's admission
and without Ray, behind HAProxy with Ray Serve's configuration as this package changes it. In turns it says for how long
HAProxy is to refuse in its place, or not.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.bodies import SIZES, draw_jpegs, image_kinds
from benchmarks.common import emit, print_table
from benchmarks.http_load import Load, OpenLoop, measure
from benchmarks.servers import Server, is_ready, started
from benchmarks.serving_common import NUM_PICTURES, stderr_console
from imgcls_ray.serve.haproxy import BINARY_VARIABLE, front_binary
from imgcls_ray.serve.local import free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.http_load import Kind

BENCHMARK = "refusals"
_PAUSE_S = 0.1
_RATE, _SECONDS, _TURNS = 400.0, 4.0, 3


def serve_full(port: int, pause_s: float) -> None:
    """Be a replica that has room for nobody."""
    import uvicorn

    from imgcls_ray.serve.admission import proxy
    from imgcls_ray.serve.admission.room import Room
    from imgcls_ray.serve.admission.slow_callers import SlowCallers

    class Full(Room):
        def pause_s(self) -> float:
            return pause_s

    async def live(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    proxy.LOCAL_REPLICA.room = Full(1, max_bytes=2**30, max_request_bytes=2**30, num_images=lambda: 1)
    app = SlowCallers(proxy.ProxyAdmission(live, 2**30))
    uvicorn.run(app, port=port, log_level="warning", access_log=False, lifespan="off")


def write_configuration(path: Path, port: int, replica: int) -> None:
    """HAProxy's, as Ray Serve writes it for one replica."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    metrics, stats = map(int, free_ports(2))
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        is_head=True,
        nbthread=1,
        socket_path=str(path.with_name("admin")),
        server_state_base=str(path.parent),
        server_state_file=str(path.with_name("state")),
        metrics_port=metrics,
        stats_port=stats,
    )
    servers = [ServerConfig(name="replica", host="127.0.0.1", port=replica)]
    backend = BackendConfig(name="http-imgcls", path_prefix="/", app_name="imgcls", servers=servers)
    HAProxyApi(config, {backend.name: backend}, config_file_path=str(path))._generate_config_file_internal()


def refuse(kinds: Sequence[Kind], pause_s: float) -> dict[str, float]:
    """CPU seconds of one refused request, by process."""
    front, (port, replica) = front_binary(), map(int, free_ports(2))
    with tempfile.TemporaryDirectory(prefix="imgcls-bench-") as folder, ExitStack() as stack:
        path = Path(folder, "haproxy.cfg")
        write_configuration(path, port, replica)
        command = [sys.executable, "-m", "benchmarks.refusals", str(replica), str(pause_s)]
        server = Server(port, "/", 0)
        end: dict[str, Any] = {"stop_signal": signal.SIGTERM}
        full = started(command, os.environ, server, is_up=lambda: is_ready(replica, "/"), **end)
        environment = {**os.environ, BINARY_VARIABLE: front}
        haproxy = started(
            [front, "-db", "-f", str(path)], environment, server, is_up=lambda: is_ready(port, "/"), **end
        )
        pids = {"replica": stack.enter_context(full).session, "HAProxy": stack.enter_context(haproxy).session}
        before = {name: _cpu_s(pid) for name, pid in pids.items()}
        result = measure(Load(port, kinds, OpenLoop(_RATE), _SECONDS, timeout_s=30.0))
        used = {name: _cpu_s(pid) - before[name] for name, pid in pids.items()}
    count = sum(result.counts().values())
    if result.counts() != {"503": count}:
        raise RuntimeError(f"not every request was refused: {result.counts()}")
    used["client"] = result.cpu_share * result.seconds
    return {name: seconds / count for name, seconds in used.items()}


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def main() -> None:
    kinds = image_kinds(draw_jpegs(SIZES["110k"], NUM_PICTURES))
    names = {"the replica refuses": 0.0, "HAProxy refuses": _PAUSE_S}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(_TURNS):
        for name, pause_s in names.items():
            turns[name].append(refuse(kinds, pause_s))
    rows = []
    for name, used in turns.items():
        medians = {process: statistics.median(turn[process] for turn in used) for process in used[0]}
        for process, seconds in medians.items():
            emit(BENCHMARK, f"{name}: CPU time of {process}", 1e6 * seconds, "us", turns=_TURNS)
        rows.append([name, *(f"{1e6 * seconds:.0f}" for seconds in medians.values())])
    columns = ("", *turns[name][0])
    print_table(columns, rows, title="CPU time of a refused request of 110 kB, us", console=stderr_console())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve_full(int(sys.argv[1]), float(sys.argv[2]))
    else:
        main()
