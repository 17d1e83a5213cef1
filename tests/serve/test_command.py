"""``imgcls serve``, as people start and stop it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from imgcls_ray import cli
from imgcls_ray.serve.local import free_ports
from tests.jobs.cluster import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.models.folder import ModelFolder

IMGCLS = Path(sys.executable).with_name("imgcls")
KEY = "a-key-of-enough-characters"


@contextmanager
def served(model: ModelFolder, port: str, **values: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, once it says that it is ready, and what it said until then."""
    command = [str(IMGCLS), "serve", "--model", str(model.path), "--port", port, "-s", "max_request_bytes=1000000"]
    with subprocess.Popen(
        command, env=environment(**values), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = ""
        try:
            for line in process.stdout:
                said += line
                if line.startswith("Ctrl-C"):
                    break
            else:
                pytest.fail(said)
            yield process, said
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the command says that refuses to start, in this process."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, **values: str) -> str:
        with monkeypatch.context() as patch:
            for name, value in values.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["imgcls", "serve", *arguments])
            with pytest.raises(SystemExit) as left:
                cli.main()
        assert left.value.code == 2
        return capsys.readouterr().err

    return run


def test_it_answers_asks_for_keys_and_ends_when_it_is_told_to(
    small_model: ModelFolder, draw_images: Callable[..., list[Path]]
) -> None:
    [port] = free_ports(1)
    [path] = draw_images(1)
    url = f"http://127.0.0.1:{port}"
    with served(small_model, port, IMGCLS_API_KEYS=KEY) as (process, said):
        assert f"page           {url}/" in said
        headers = {"content-type": "image/jpeg", "authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=url, timeout=30) as client:
            answer = client.post("/v1/classify", content=path.read_bytes(), headers=headers)
            assert answer.json()["results"][0]["status"] == "ok"
            assert client.post("/v1/classify", content=b"x", headers={"content-type": "image/jpeg"}).status_code == 401
            assert client.get("/").text.startswith("<!doctype html>")
            assert _status_of_a_large_body(client, headers) == 413
        # A request that is in work when the command is told to end has its answer.
        answers: list[int] = []

        def slow() -> Iterator[bytes]:
            data = path.read_bytes()
            yield data[:100]
            time.sleep(2)
            yield data[100:]

        def ask() -> None:
            answers.append(httpx.post(f"{url}/v1/classify", content=slow(), headers=headers, timeout=30).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(1)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        asking.join()
        assert answers == [200]
        assert process.wait(60) == 0
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(port)))  # nothing listens there any more


def _status_of_a_large_body(client: httpx.Client, headers: dict[str, str]) -> int:
    for _ in range(3):
        try:
            return client.post("/v1/classify", content=bytes(2_000_000), headers=headers).status_code
        except httpx.TransportError:
            pass  # closed before all was sent: the answer may be lost with it
    return 0


@pytest.mark.slow
def test_without_haproxy_bodies_are_bounded_in_the_proxy_too(small_model: ModelFolder) -> None:
    [port] = free_ports(1)

    def endless() -> Iterator[bytes]:
        for _ in range(2000):
            yield bytes(100_000)

    with served(small_model, port, RAY_SERVE_ENABLE_HA_PROXY="0") as (process, _):
        url = f"http://127.0.0.1:{port}"
        children = psutil.Process(process.pid).children(recursive=True)
        [proxy] = [child for child in children if "".join(child.cmdline()).startswith("ray::ProxyActor")]
        before = proxy.memory_info().rss
        try:
            answer = httpx.post(f"{url}/v1/classify", content=endless(), headers={"content-type": "image/jpeg"})
            assert answer.status_code == 413
        except httpx.TransportError:
            pass  # closed before all was sent: the answer may be lost with it
        # 200 MB came to the proxy; it took in one.
        assert proxy.memory_info().rss - before < 30e6
        missing = httpx.get(f"{url}/nothing")
        assert missing.json()["error"]["code"] == "not_found"
        assert missing.headers.get_list("x-request-id") == [missing.json()["error"]["request_id"]]


def test_what_cannot_run_is_refused_before_anything_starts(
    small_model: ModelFolder, refused: Callable[..., str], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "cannot listen there" in refused("--model", str(small_model.path), "--port", port)
    assert "--model is missing" in refused()
    assert "there is no such model folder" in refused("--model", str(tmp_path / "none"))
    error = refused("--model", str(small_model.path), IMGCLS_API_KEYS="short")
    assert "IMGCLS_API_KEYS: a key has fewer than 16 characters" in error
    assert "short" not in error
    for empty in ("", " ", ",", "\n"):
        error = refused("--model", str(small_model.path), IMGCLS_API_KEYS=empty)
        assert "IMGCLS_API_KEYS: is set but holds no key" in error
    assert "can never be taken in" in refused("--model", str(small_model.path), "-s", "max_queued_images=1")
