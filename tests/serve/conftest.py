"""Services around one small model that is loaded once, and the ways to ask them.

A service lives in an event loop of its own, in a thread, as in a replica. It is asked in that loop, which costs
little, or through a real HTTP server, where sockets matter.
"""

from __future__ import annotations

import asyncio
import io
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from imgcls_ray.config import ModelChoice, ServeConfig, make_config
from imgcls_ray.models.api import create_model
from imgcls_ray.models.classifier import Prediction
from imgcls_ray.serve.app import make_app, make_service
from imgcls_ray.serve.fleet import Lineup
from imgcls_ray.serve.guard import Guard
from imgcls_ray.serve.keys import ApiKeys
from imgcls_ray.serve.metrics import NoMetrics
from imgcls_ray.serve.model import ModelOptions, ServedModel, load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from imgcls_ray.errors import ImageError
    from imgcls_ray.models.api import Model
    from imgcls_ray.models.classifier import ModelInput
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.serve.metrics import Metrics
    from imgcls_ray.serve.service import Service

T = TypeVar("T")
NUM_ENGINES = 2
_PATIENCE_S = 60


def picture(seed: int, size: tuple[int, int] = (96, 80)) -> bytes:
    """A JPEG file; another seed is another picture, with another label as likely as not."""
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
    return file.getvalue()


class EventLoop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="service", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(_PATIENCE_S)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_PATIENCE_S)
        self.loop.close()


class Live:
    """One service that answers."""

    def __init__(self, events: EventLoop, service: Service, app: Guard) -> None:
        self._events = events
        self.service = service
        self.app = app
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://service", timeout=_PATIENCE_S
        )
        self._stack = ExitStack()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """In the service's event loop."""
        return self._events.run(coroutine)

    def ask(self, method: str, url: str, **request: Any) -> httpx.Response:
        return self.run(self.client.request(method, url, **request))

    def classify(self, content: bytes, **request: Any) -> httpx.Response:
        """Send one image as the body."""
        return self.ask(
            "POST", "/v1/classify", content=content, **{"headers": {"content-type": "image/jpeg"}, **request}
        )

    def ask_all(self, requests: Sequence[dict[str, Any]]) -> list[httpx.Response]:
        """At once."""

        async def ask_all() -> list[httpx.Response]:
            return await asyncio.gather(*(self.client.request(**request) for request in requests))

        return self.run(ask_all())

    @property
    def num_bytes(self) -> int:
        """Of all requests that are in the service now."""
        return self.app._room.num_bytes

    def listen(self) -> str:
        """Answer at a port of loopback too, until the service ends. Returns its address."""
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(self.app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        serving = asyncio.run_coroutine_threadsafe(server.serve([listener]), self._events.loop)

        def stop() -> None:
            server.should_exit = True
            serving.result(_PATIENCE_S)
            listener.close()

        self._stack.callback(stop)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def close(self) -> None:
        self._stack.close()
        self.run(self.client.aclose())
        self.service.pipeline.close()


class FakeModel(ServedModel):
    """Says what it is told, and keeps the sizes of its batches."""

    @classmethod
    def like(
        cls, folder: ModelFolder, classify: Callable[[Sequence[ModelInput]], list[Prediction | ImageError]]
    ) -> FakeModel:
        model = cls(str(folder.path), folder, ())
        # The dataclass is frozen; what is added here belongs to the test.
        object.__setattr__(model, "batches", [])
        object.__setattr__(model, "_classify", classify)
        return model

    batches: list[int]
    _classify: Callable[[Sequence[ModelInput]], list[Prediction | ImageError]]

    def classify(
        self, images: Sequence[ModelInput], thread: int = 0, *, top_k: int = 1
    ) -> list[Prediction | ImageError]:
        self.batches.append(len(images))
        return self._classify(images)


@pytest.fixture(scope="session")
def events() -> Iterator[EventLoop]:
    events = EventLoop()
    yield events
    events.close()


@pytest.fixture(scope="session")
def served_model(small_model: ModelFolder) -> ServedModel:
    """In float32: the small model's loud head makes too much of what bfloat16 rounds."""
    return load_model(ModelChoice(model=str(small_model.path)), ModelOptions(num_engines=NUM_ENGINES, precision="fp32"))


@pytest.fixture(scope="session")
def python_model(small_model: ModelFolder) -> Model:
    """The same model as it answers in Python, which is what a service's answers are compared with."""
    return create_model(small_model.path, precision="fp32")


@pytest.fixture
def start(events: EventLoop, served_model: ServedModel) -> Iterator[Callable[..., Live]]:
    """Make services of their own, with keys of ``ServeConfig``."""
    with ExitStack() as stack:

        def start(
            *,
            keys: Sequence[str] = (),
            model: ServedModel = served_model,
            metrics: Metrics | None = None,
            **config: Any,
        ) -> Live:
            live = make_live(events, model, keys=keys, metrics=metrics, **config)
            stack.callback(live.close)
            return live

        yield start


@pytest.fixture(scope="session")
def live(events: EventLoop, served_model: ServedModel) -> Iterator[Live]:
    """The one service for tests that leave it as it is."""
    live = make_live(events, served_model)
    yield live
    live.close()


def make_live(
    events: EventLoop, model: ServedModel, *, keys: Sequence[str] = (), metrics: Metrics | None = None, **config: Any
) -> Live:
    checked = make_config(ServeConfig, {"model": model.uri, "precision": "fp32", **config})

    async def make() -> tuple[Service, Guard]:
        service = make_service(checked, num_cores=NUM_ENGINES, metrics=metrics or NoMetrics())
        service.fleet.lineup = Lineup(checked.models(), model)
        app = make_app(service, ApiKeys(keys))
        assert isinstance(app, Guard)
        return service, app

    return Live(events, *events.run(make()))
