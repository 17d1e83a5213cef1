"""Services around one small model that is loaded once, and the ways to ask them.

A service lives in an event loop of its own, in a thread, as in a replica. It is asked in that loop, which costs
little, or through a real HTTP server, where sockets matter.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from imgcls_ray.config import ModelChoice, ServeConfig, make_config
from imgcls_ray.models.api import create_model
from imgcls_ray.models.classifier import Prediction
from imgcls_ray.models.folder import save_model_folder
from imgcls_ray.serve import model as serve_model
from imgcls_ray.serve.app import make_app, make_service
from imgcls_ray.serve.fleet import Lineup
from imgcls_ray.serve.keys import ApiKeys
from imgcls_ray.serve.metrics import NoMetrics
from imgcls_ray.serve.model import ModelOptions, ServedModel, load_model
from tests.serve.templates import decoder_templates, is_decoders
from tests.templates import forked_from

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from starlette.types import ASGIApp, Message, Receive

    from imgcls_ray.errors import ImageError
    from imgcls_ray.models.api import Model
    from imgcls_ray.models.classifier import ModelInput
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.models.results import Result
    from imgcls_ray.serve.admission.replica import ReplicaAdmission
    from imgcls_ray.serve.metrics import Metrics
    from imgcls_ray.serve.service import Service

T = TypeVar("T")
NUM_ENGINES = 2
# Between two ways of computing the same float32 network.
TOLERANCE = 0.02
PATIENCE_S = 60


def picture(seed: int, size: tuple[int, int] = (96, 80)) -> bytes:
    """A JPEG file; another seed is another picture, with another label as likely as not."""
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
    return file.getvalue()


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def check_labels(found: dict[str, Any], expected: Result) -> None:
    """Compare one image's answer over HTTP with that of Python."""
    assert found["status"] == "ok"
    assert (found["width"], found["height"]) == (expected.width, expected.height)
    labels = found["predictions"]
    assert [label["label"] for label in labels][:1] == [*expected.label_names][:1]
    scores = dict(zip(expected.label_names, expected.scores, strict=True))
    for label in labels:
        assert label["score"] == pytest.approx(scores[label["label"]], abs=TOLERANCE)
    assert (found["probability"], found["decision"]) == (expected.probability, expected.decision)
    assert found["ood_score"] == pytest.approx(expected.ood_score, rel=0.05)


class EventLoop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="service", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.close()


class Live:
    """One service that answers."""

    def __init__(self, events: EventLoop, service: Service, app: ReplicaAdmission) -> None:
        self._events = events
        self.service = service
        self.app = app
        transport = httpx.ASGITransport(app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://service", timeout=PATIENCE_S)
        self._stack = ExitStack()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """In the service's event loop."""
        return self._events.run(coroutine)

    def ask(self, method: str, url: str, **request: Any) -> httpx.Response:
        return self.run(self.client.request(method, url, **request))

    def classify(self, content: bytes, **request: Any) -> httpx.Response:
        """Send one image as the body."""
        return self.run(self.classifying(content, **request))

    async def classifying(self, content: bytes, **request: Any) -> httpx.Response:
        headers = {"content-type": "image/jpeg"}
        return await self.client.post("/v1/classify", content=content, **{"headers": headers, **request})

    def classify_files(self, *contents: bytes, **request: Any) -> httpx.Response:
        """Send images as files of a form."""
        files = [("files", (f"{i}.jpg", content)) for i, content in enumerate(contents)]
        return self.ask("POST", "/v1/classify", files=files, **request)

    def ask_in_json(self, content: Any, url: str = "/v1/classify", **request: Any) -> httpx.Response:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.ask("POST", url, content=body, headers={"content-type": "application/json"}, **request)

    @property
    def num_images(self) -> int:
        return self.service.pipeline.num_images

    @property
    def num_bytes(self) -> int:
        """Of all requests that are in the service now."""
        return self.app.room.num_bytes

    def wait_until_empty(self) -> None:
        wait_until(lambda: self.num_images == 0 and self.num_bytes == 0)

    def listen(self) -> tuple[str, int]:
        """Answer at a port of loopback too, until the service ends. Returns host and port."""
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(self.app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        serving = asyncio.run_coroutine_threadsafe(server.serve([listener]), self._events.loop)

        def stop() -> None:
            server.should_exit = True
            serving.result(PATIENCE_S)

        self._stack.callback(stop)
        host, port = listener.getsockname()
        return host, port

    def close(self) -> None:
        self._stack.close()
        self.run(self.client.aclose())
        self.service.pipeline.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Answer(NamedTuple):
    """What an application sent back."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value.decode() for key, value in self.headers if key == name.encode()]
        assert len(found) < 2, f"{name} comes twice"
        return found[0] if found else None

    def json(self) -> Any:
        return json.loads(self.body)


async def exchange(
    app: ASGIApp,
    method: str = "POST",
    path: str = "/v1/classify",
    headers: Sequence[tuple[bytes, bytes]] = ((b"content-type", b"image/jpeg"),),
    receive: Receive | None = None,
) -> Answer:
    """Ask an application as a server would, with what no HTTP client sends."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("service", 80),
    }
    await app(scope, receive or chunks(b""), send)
    assert [message["type"] for message in sent].count("http.response.start") == 1
    assert not sent[-1].get("more_body", False)
    return Answer(sent[0]["status"], list(sent[0]["headers"]), b"".join(m.get("body", b"") for m in sent[1:]))


def chunks(*parts: bytes) -> Receive:
    """A body that comes in parts; then nothing more."""
    left = list(parts)

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    return receive


class FakeModel(ServedModel):
    """Says what it is told, and keeps what it was asked."""

    batches: list[list[ModelInput]]
    answer: Callable[[Sequence[ModelInput]], list[Prediction | ImageError]]

    def classify(
        self, images: Sequence[ModelInput], thread: int = 0, *, top_k: int = 1
    ) -> list[Prediction | ImageError]:
        self.batches.append(list(images))
        return self.answer(images)


def fake_model(
    folder: ModelFolder, answer: Callable[[Sequence[ModelInput]], list[Prediction | ImageError]] | None = None
) -> FakeModel:
    """One that answers as ``say`` does, if nothing else is given."""
    model = FakeModel(str(folder.path), folder, ())
    # The dataclass is frozen; what is added here belongs to the test.
    object.__setattr__(model, "batches", [])
    object.__setattr__(model, "answer", answer or say)
    return model


def say(images: Sequence[ModelInput], class_id: int = 0) -> list[Prediction | ImageError]:
    """All are of one class."""
    ids = np.array([class_id], np.int32)
    return [Prediction(image.width, image.height, ids, np.ones(1, np.float32)) for image in images]


@pytest.fixture(scope="session", autouse=True)
def templates(worker_templates: None) -> Iterator[None]:
    """Decoder processes without a new Python for each test."""
    with forked_from(decoder_templates(), is_decoders):
        yield


@pytest.fixture(scope="session")
def events() -> Iterator[EventLoop]:
    events = EventLoop()
    yield events
    events.close()


@pytest.fixture(scope="session")
def served_model(small_model: ModelFolder) -> ServedModel:
    """In float32: the small model's loud head makes too much of what bfloat16 rounds."""
    return load_quickly(small_model)


@pytest.fixture(scope="session")
def other_folder(small_model: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """Another model, which gives every picture another label: the same network, its classes named backwards."""
    spec = small_model.spec
    return save_model_folder(
        tmp_path_factory.mktemp("model") / "other",
        small_model.load_network(),
        name="other",
        architecture=spec.architecture,
        class_names=spec.class_names[::-1],
        preprocess=spec.preprocess,
    )


def load_quickly(folder: ModelFolder) -> ServedModel:
    """Load a model as a replica does, but believe its engine: a process that says what is right takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        believe_engines(patch)
        options = ModelOptions(num_engines=NUM_ENGINES, precision="fp32")
        return load_model(ModelChoice(model=str(folder.path)), options)


def believe_engines(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(serve_model, "find_reference", lambda *_args, **_options: None)


@pytest.fixture(scope="session")
def python_model(small_model: ModelFolder) -> Model:
    """The same model as it answers in Python, with which a service's answers are compared."""
    return create_model(small_model.path, precision="fp32")


@pytest.fixture
def start(events: EventLoop, served_model: ServedModel) -> Iterator[Callable[..., Live]]:
    """Make services with keys of ``ServeConfig``, which end with the test."""
    with ExitStack() as stack:

        def start(model: ServedModel = served_model, **options: Any) -> Live:
            live = make_live(events, model, **options)
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

    async def make() -> tuple[Service, ReplicaAdmission]:
        service = make_service(checked, num_cores=NUM_ENGINES, metrics=metrics or NoMetrics())
        service.fleet.lineup = Lineup(checked.models(), model)
        return service, make_app(service, ApiKeys(keys))

    return Live(events, *events.run(make()))
