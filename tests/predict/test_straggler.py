"""A unit that hangs in one worker is labelled by another, and has one row for each input."""

from __future__ import annotations

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.predict.job import predict
from imgcls_ray.storage import open_directory
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.verify import verify_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder


class StickyServer(ThreadingHTTPServer):
    """Serves a folder; the first request for its first picture is not answered before it is let go."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.asked: Counter[str] = Counter()
        self.let_go = threading.Event()
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    server: StickyServer

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked[self.path] += 1
            is_first = self.server.asked[self.path] == 1
        if is_first and self.path == "/00000.jpg":
            self.server.let_go.wait()
        content = (self.server.folder / self.path[1:]).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(draw_images: Callable[..., list[Path]]) -> Iterator[StickyServer]:
    with StickyServer(draw_images(96)[0].parent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.let_go.set()
        server.shutdown()


@pytest.mark.usefixtures("ray_session")
def test_rows_of_a_unit_that_hangs_are_neither_lost_nor_doubled(
    server: StickyServer, small_model: ModelFolder, tmp_path: Path
) -> None:
    port = server.server_address[1]
    (tmp_path / "list.txt").write_text("\n".join(f"http://127.0.0.1:{port}/{i:05d}.jpg" for i in range(96)))
    values = {
        "input": str(tmp_path / "list.txt"),
        "model": str(small_model.path),
        "output": str(tmp_path / "store"),
        "on": "ray",
        "num_workers": 2,
        "unit_size": 16,
        "allow_private_urls": True,
        "fetch_timeout_s": 1000,
    }
    # Nobody lets the server go meanwhile: the run has to do without its answer.
    report = predict(make_config(PredictConfig, values), Console(stderr=True, force_terminal=False))
    assert server.asked["/00000.jpg"] >= 2
    [run] = report.runs
    assert (run.num_labelled, dict(run.codes)) == (96, {"ok": 96})
    store = open_store(open_directory(str(tmp_path / "store")))
    found = verify_store(store)
    assert (found.problems, found.num_rows) == ([], 96)
