"""The service on Ray Serve: one deployment, which is ingress and models in one.

All models of the service (the one that answers, its canary, its shadow) live in every replica. A router before model
replicas would be a second hop for every image, and a canary of 5 % would need a replica of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import ray
from ray import serve

from imgcls_ray.config import ModelsConfig, ServeConfig, make_config
from imgcls_ray.errors import ConfigError
from imgcls_ray.serve.admission import proxy
from imgcls_ray.serve.app import make_app, make_service
from imgcls_ray.serve.keys import read_api_keys
from imgcls_ray.serve.last_good import LastGood
from imgcls_ray.serve.metrics import RayMetrics

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

_SWITCH_INTERVAL_S = 0.001


@serve.deployment(
    name="Classifier",
    # Serve's queue and bound are not what holds requests back: a replica knows what it has in hand, in images and
    # bytes, and says so in its own words. Serve's defaults would be 5 at once and an endless queue.
    max_ongoing_requests=512,
    max_queued_requests=512,
    # A model that cannot be loaded cannot be loaded 20 times either.
    max_constructor_retry_count=3,
)
@serve.ingress()
class Classifier:
    """One replica."""

    def __init__(self, config: dict[str, object]) -> None:
        self._config = make_config(ServeConfig, config)
        _log_with_serve()
        # The event loop shares the interpreter with the threads that decode and classify; at Python's 5 ms it would
        # wait longer for its turn than most answers take.
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        keys = read_api_keys(os.environ)
        # Ray sets OMP_NUM_THREADS=1 and reserves cores; as many threads decode and classify.
        assigned = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
        cores = int(assigned.get("CPU", 1)) or 1
        self._service = make_service(self._config, num_cores=cores, metrics=RayMetrics())
        self._app = make_app(self._service, keys)
        # By way of the module: Ray sends this class to a replica by value, and with it a copy of every object that it
        # names; modules are found again.
        proxy.LOCAL_REPLICA.room = self._app.room
        context = serve.get_replica_context()
        self._last_good = LastGood(context.app_name, context.deployment)
        self._service.fleet.on_change = self._last_good.write
        self._changes: set[asyncio.Task[None]] = set()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app

    async def reconfigure(self, user_config: dict[str, object]) -> None:
        """Serve's call for new models, at the start and whenever ``user_config`` changes.

        A replica that answers already goes on while it loads them, and keeps its own if they are refused: Serve would
        end a replica whose ``reconfigure`` fails, and leaves out of its turn one whose ``reconfigure`` takes time.
        """
        fleet = self._service.fleet
        if fleet.lineup is not None:
            change = asyncio.create_task(self._change(user_config))
            self._changes.add(change)
            change.add_done_callback(self._changes.discard)
            return
        try:
            await fleet.change(make_config(ModelsConfig, user_config))
        except Exception as error:
            last = self._last_good.read()
            if last is None:
                raise
            await fleet.change(last)
            fleet.refuse(error)

    async def _change(self, user_config: dict[str, object]) -> None:
        fleet = self._service.fleet
        try:
            await fleet.change(make_config(ModelsConfig, user_config))
        except ConfigError as error:
            fleet.refuse(error)
        except Exception:  # told and remembered by the fleet
            logger.debug("the old models serve on", exc_info=True)

    def check_health(self) -> None:
        """Serve's question, every ten seconds: a replica whose interpreter answers is healthy.

        No image ends a replica: the same one would end all of them. What does not come back from decoding is ended
        or replaced by the pipeline.
        """
        service = self._service
        service.metrics.waiting(service.pipeline.num_images, self._app.room.num_bytes)
        service.metrics.stuck(service.pipeline.num_stuck)
        if refused := proxy.LOCAL_REPLICA.num_refused:
            proxy.LOCAL_REPLICA.num_refused = 0
            service.metrics.refused(refused)
            logger.warning("%d requests were turned away: no room", refused)
        if service.fleet.lineup is not None:
            self._last_good.write(service.fleet.lineup.config)

    def __del__(self) -> None:
        if hasattr(self, "_service"):
            self._service.pipeline.close()


def build_app(args: dict[str, object]) -> Application:
    """For ``serve run`` and ``serve deploy``: the application with these keys of ``ServeConfig``.

    Raises:
        ConfigError: a key or value that does not fit, or API keys that no replica would start with.
    """
    read_api_keys(os.environ)
    return application(make_config(ServeConfig, args))


def application(config: ServeConfig, *, num_cpus: int | None = None, **options: object) -> Application:
    """The application; ``num_cpus`` of a replica, and options of ``serve.deployment`` on top."""
    resources: dict[str, int] = {"num_gpus": 1} if config.uses_gpus else {}
    if num_cpus is not None:
        resources["num_cpus"] = num_cpus
    deployment: Any = Classifier
    bound: Application = deployment.options(
        user_config=config.models().model_dump(mode="json"),
        graceful_shutdown_timeout_s=config.grace_s,
        ray_actor_options=resources,
        **options,
    ).bind(config.model_dump(mode="json"))
    return bound


def _log_with_serve() -> None:
    """What this package logs goes where Serve logs, in its form."""
    ours, served = logging.getLogger(__package__), logging.getLogger("ray.serve")
    for handler in served.handlers:
        if handler not in ours.handlers and not type(handler).__name__.startswith("Stream"):
            ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
