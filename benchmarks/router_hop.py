"""What a router before the models would cost: an empty application that answers itself, and one that asks another.

``python -m benchmarks.router_hop``

It is why the canary and the shadow live in every replica (docs/serving.md): both applications read the request and
answer a constant, behind HAProxy as this package sets it up, so what differs is Ray Serve's way from one deployment to
another.
"""

import os
import signal
import sys
import time
from typing import Any

from fastapi import FastAPI, Request, Response

from benchmarks.bodies import SIZES, draw_jpegs, image_kinds
from benchmarks.common import emit, isolated_environment, print_table
from benchmarks.http_load import ClosedLoop, Load, measure
from benchmarks.servers import Server, is_ready, started
from benchmarks.serving_common import stderr_console
from imgcls_ray.serve.admission.proxy import SERVE_ENVIRONMENT
from imgcls_ray.serve.local import free_ports, port_environment

BENCHMARK = "router_hop"
_ANSWER = b'{"results": []}'
_SECONDS = 4.0


def serve_empty(port: int, *, has_router: bool) -> None:
    """Serve the application until the process is told to end."""
    import ray
    from ray import serve

    app = FastAPI()

    @serve.deployment(max_ongoing_requests=100)
    class Model:
        async def __call__(self, content: bytes) -> bytes:
            return _ANSWER if content else b""

    @serve.deployment(max_ongoing_requests=100)
    @serve.ingress(app)
    class Ingress:
        def __init__(self, model: Any = None) -> None:
            self._model = model

        @app.get("/readyz")
        async def ready(self) -> str:
            return "ready"

        @app.post("/v1/classify")
        async def classify(self, request: Request) -> Response:
            content = await request.body()
            answer = _ANSWER if self._model is None else await self._model.remote(content)
            return Response(answer, media_type="application/json")

    logs = {"enable_access_log": False}
    deployments: tuple[Any, Any] = (Ingress, Model)
    ingress, model = (deployment.options(logging_config=logs) for deployment in deployments)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 30.0}, logging_config=logs)
    serve.run(ingress.bind(model.bind()) if has_router else ingress.bind(), logging_config=logs)
    signal.sigwait({signal.SIGTERM})
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


def main() -> None:
    """Ask both, in turn, and print the table."""
    rates: dict[tuple[str, int], dict[bool, float]] = {}
    with isolated_environment() as environment:
        for has_router in (False, True):
            port = int(free_ports(1)[0])
            serve_environment = {**environment, **SERVE_ENVIRONMENT, **port_environment(), "RAY_AUTH_MODE": "disabled"}
            # Admission is not what is measured.
            del serve_environment["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
            command = [sys.executable, "-m", "benchmarks.router_hop", str(port), str(int(has_router))]
            with started(
                command,
                serve_environment,
                Server(port, "/v1/classify", 0),
                is_up=lambda port=port: is_ready(port, "/readyz"),  # type: ignore[misc]
                stop_signal=signal.SIGTERM,
            ):
                time.sleep(1)
                for size in ("10k", "110k"):
                    kinds = image_kinds(draw_jpegs(SIZES[size], 4))
                    for clients in (1, 8, 32):
                        result = measure(Load(port, kinds, ClosedLoop(clients), _SECONDS, warm_up_s=1))
                        rates.setdefault((size, clients), {})[has_router] = result.good_rate()
                        about = {"size": size, "clients": clients, "p50_ms": round(1000 * result.latency(50), 1)}
                        name = "two deployments" if has_router else "one deployment"
                        emit(BENCHMARK, name, result.good_rate(), "requests/s", **about)
    rows = [
        [f"{size}, {clients} clients", f"{both[False]:.0f}", f"{both[True]:.0f}", f"{both[True] / both[False]:.2f}"]
        for (size, clients), both in rates.items()
    ]
    columns = ("body", "one deployment", "router and model", "ratio")
    print_table(columns, rows, title="requests/s of an empty application", console=stderr_console())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        serve_empty(int(sys.argv[1]), has_router=sys.argv[2] == "1")
    else:
        main()
