"""A real browser for tests, and a real server for it to ask."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from imgcls_ray.config import ServeConfig, make_config
from imgcls_ray.serve.admission.request import send_error
from imgcls_ray.serve.app import make_app, make_service
from imgcls_ray.serve.errors import ErrorCode, refuse
from imgcls_ray.serve.keys import ApiKeys
from imgcls_ray.serve.metrics import NoMetrics
from tests.programs import leave_out

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser
    from starlette.types import ASGIApp, Receive, Scope, Send

API_KEY = "the key of the tests"
_START_DEADLINE_S = 120


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium without a window; skip the tests that need it where it is not installed."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        leave_out("the browser", "browser", ["chromium"])
    with sync_playwright() as playwright:
        # Chromium's sandbox does not start for root, as whom tests run in containers; it sees our own page alone.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Site:
    """A service on loopback, and what goes wrong before it. Tests change it while it answers."""

    open_app: ASGIApp
    locked_app: ASGIApp
    """The same service for callers with ``API_KEY``."""
    url: str = ""
    needs_key: bool = False
    num_busy: int = 0
    """So many of the next images get 503."""
    is_held: bool = False
    """Images get no answer for now."""
    queries: list[str] = field(default_factory=list)
    """Of the images that came."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        app = self.locked_app if self.needs_key else self.open_app
        if scope["path"] != "/v1/classify":
            await app(scope, receive, send)
            return
        self.queries.append(scope["query_string"].decode())
        if self.num_busy:
            self.num_busy -= 1
            await send_error(send, refuse(ErrorCode.OVERLOADED, "told to by the test"), scope["path"], "test")
            return
        while self.is_held:
            await asyncio.sleep(0.01)
        await app(scope, receive, send)

    def reset(self) -> None:
        self.needs_key, self.num_busy, self.is_held = False, 0, False
        self.queries.clear()


@contextmanager
def serve(model: Path) -> Iterator[Site]:
    """Serve a model over real HTTP from a thread of its own, until the block ends."""
    started: Future[tuple[Site, Any]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(str(model), started)), daemon=True)
    thread.start()
    site, server = started.result(timeout=_START_DEADLINE_S)
    try:
        yield site
    finally:
        server.should_exit = True
        thread.join()


async def _serve(model: str, started: Future[tuple[Site, Any]]) -> None:
    import uvicorn

    try:
        config = make_config(ServeConfig, {"model": model, "engine": "torch"})
        service = make_service(config, num_cores=1, metrics=NoMetrics())
        await service.fleet.change(config.models())
        site = Site(make_app(service, ApiKeys([])), make_app(service, ApiKeys([API_KEY])))
        server = uvicorn.Server(uvicorn.Config(site, lifespan="off", log_level="warning", timeout_graceful_shutdown=1))
        listener = socket.create_server(("127.0.0.1", 0))
        site.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    except BaseException as error:
        started.set_exception(error)
        return
    # It listens already: who connects from now on waits for the server and is answered.
    started.set_result((site, server))
    await server.serve([listener])
    service.pipeline.close()
