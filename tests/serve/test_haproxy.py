"""What becomes of the configuration of HAProxy that Ray Serve writes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import httpx
import pytest

from imgcls_ray.serve.admission.request import error_answer
from imgcls_ray.serve.errors import no_room
from imgcls_ray.serve.haproxy import UnexpectedConfigurationError, front_binary, rewrite
from imgcls_ray.serve.local import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY_FILES = 1_000_000
REFUSALS = Path("/run/imgcls.lua")


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As this version of Ray Serve writes it for one application."""
    return configuration_of(tmp_path_factory.mktemp("haproxy"), "/")


def configuration_of(folder: Path, *prefixes: str, grpc_port: int | None = None) -> str:
    """What Ray Serve writes for applications with these prefixes, and for one of gRPC if that has a port."""
    from ray.serve._private.common import RequestProtocol
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions, gRPCOptions

    functions = ["ray.serve.generated.serve_pb2_grpc.add_UserDefinedServiceServicer_to_server"]
    grpc_options: dict[str, Any] = {}
    if grpc_port:
        grpc_options["grpc_options"] = gRPCOptions(port=grpc_port, grpc_servicer_functions=functions)
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=8123),
        **grpc_options,
        is_head=True,
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        metrics_port=9101,
        stats_port=8404,
    )
    servers = [ServerConfig(name="replica", host="127.0.0.1", port=30000)]
    backends = [
        BackendConfig(
            name=f"http-imgcls{number or ''}", path_prefix=prefix, app_name=f"imgcls{number}", servers=servers
        )
        for number, prefix in enumerate(prefixes)
    ]
    if grpc_port:
        grpc: Any = {"name": "grpc-other", "path_prefix": "/", "app_name": "other", "protocol": RequestProtocol.GRPC}
        backends.append(BackendConfig(**grpc, servers=servers))
    proxy = HAProxyApi(config, {backend.name: backend for backend in backends}, str(folder / "haproxy.cfg"))
    proxy._generate_config_file_internal()
    return (folder / "haproxy.cfg").read_text()


def test_only_what_is_asked_for_is_open(written: str) -> None:
    lines = lines_of(rewrite(written, {}, MANY_FILES, REFUSALS))
    assert [line for line in lines if line.startswith("bind ")] == [
        "bind 127.0.0.1:9101",
        "bind 127.0.0.1:8123",
        "bind 127.0.0.1:8404",
    ]
    [admin] = [line for line in lines if line.startswith("stats socket ")]
    assert " mode 600 " in admin


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("0.0.0.0", "*:8123"),
        ("::", "[::]:8123"),
        ("::1", "[::1]:8123"),
        ("192.0.2.7", "192.0.2.7:8123"),
        ("localhost", "localhost:8123"),
    ],
)
def test_the_service_is_at_its_host_and_nothing_else_is(written: str, host: str, address: str) -> None:
    lines = lines_of(rewrite(written, {"IMGCLS_HAPROXY_HOST": host}, MANY_FILES, REFUSALS))
    assert f"bind {address}" in lines
    assert sum(line.startswith("bind 127.0.0.1:") for line in lines) == 2


@pytest.mark.parametrize(
    ("environment", "max_files", "maxconn", "per_address"),
    [
        ({}, MANY_FILES, 16384, 12288),
        # HAProxy would not start with more than its files allow.
        ({}, 20_000, 7920, 5940),
        ({"RAY_SERVE_HAPROXY_MAXCONN": "1000"}, MANY_FILES, 1000, 750),
        ({"IMGCLS_MAX_CONNECTIONS_PER_ADDRESS": "64"}, MANY_FILES, 16384, 64),
        ({"IMGCLS_MAX_CONNECTIONS_PER_ADDRESS": "0"}, MANY_FILES, 16384, None),
    ],
)
def test_connections_are_bounded_in_all_and_for_one_address(
    written: str, environment: dict[str, str], max_files: int, maxconn: int, per_address: int | None
) -> None:
    lines = lines_of(rewrite(written, environment, max_files, REFUSALS))
    assert f"maxconn {maxconn}" in lines
    assert "timeout http-request 10s" in lines
    rejects = [line for line in lines if line.startswith("tcp-request connection reject")]
    assert rejects == ([f"tcp-request connection reject if {{ sc0_conn_cur gt {per_address} }}"] if per_address else [])


def test_haproxy_takes_it_and_takes_it_again(written: str, tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    for environment in ({}, {"IMGCLS_HAPROXY_HOST": "::"}):
        path.write_text(written)
        done = run_front(path, **environment)
        assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["haproxy.cfg", "haproxy.cfg.lua"]


@pytest.mark.parametrize(
    "missing", ["mode 666", "maxconn", "bind 127.0.0.1:8123", "listen stats", "prometheus-exporter"]
)
def test_a_configuration_that_is_not_known_is_refused(written: str, missing: str, tmp_path: Path) -> None:
    with pytest.raises(
        UnexpectedConfigurationError, match=r"has 0 places like .*: this version of Ray is not supported"
    ):
        rewrite(written.replace(missing, "other"), {}, MANY_FILES, REFUSALS)
    path = tmp_path / "haproxy.cfg"
    path.write_text(written.replace(missing, "other"))
    done = run_front(path)
    assert done.returncode == 1
    assert done.stderr.startswith("imgcls-haproxy: Ray Serve's configuration of HAProxy has 0 places like ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("value", ["-1", "many", "1e3"])
def test_a_limit_that_is_no_number_is_refused(written: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"IMGCLS_MAX_CONNECTIONS_PER_ADDRESS={value}: is not a number"):
        rewrite(written, {"IMGCLS_MAX_CONNECTIONS_PER_ADDRESS": value}, MANY_FILES, REFUSALS)


def run_front(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Let HAProxy check the rewritten configuration."""
    front = front_binary()
    return subprocess.run(
        [front, "-c", "-f", str(path)],
        env={**os.environ, "RAY_SERVE_HAPROXY_BINARY_PATH": front, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Files(BaseHTTPRequestHandler):
    """A replica that counts what it is asked for."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[str]] = []
    posted: ClassVar[list[str | None]] = []
    """What each POST that came here says of refused ones."""
    pause_ms: ClassVar[int] = 0
    body = bytes(range(256)) * 4096

    def do_GET(self) -> None:
        if not self.path.startswith("/-/"):
            self.asked.append(self.path)
        self.send_response(200)
        headers = {"content-length": len(self.body), "etag": '"1"', "x-request-id": self.headers["x-request-id"]}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(self.body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.posted.append(self.headers["x-imgcls-refused"])
        self.send_response(503 if self.pause_ms else 200)
        self.send_header("content-length", "0")
        if self.pause_ms:
            self.send_header("x-imgcls-pause-ms", str(self.pause_ms))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address(written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where HAProxy listens, before a replica that has two files."""
    ports = free_ports(3)
    replica = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=replica.serve_forever, daemon=True).start()
    text = written.replace("127.0.0.1:30000", f"127.0.0.1:{replica.server_port}")
    for port, number in zip(("8123", "9101", "8404"), ports, strict=True):
        text = text.replace(f":{port}\n", f":{number}\n")
    path = tmp_path / "haproxy.cfg"
    path.write_text(text)
    Files.asked.clear()
    Files.posted.clear()
    monkeypatch.setattr(Files, "pause_ms", 0)
    front = front_binary()
    env = {**os.environ, "RAY_SERVE_HAPROXY_BINARY_PATH": front}
    with subprocess.Popen([front, "-db", "-f", str(path)], env=env, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{ports[0]}"
        try:
            deadline = time.monotonic() + 60
            while not is_up(url):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield url
        finally:
            process.kill()
            replica.shutdown()
            replica.server_close()


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/other").status_code == 200
    except httpx.TransportError:
        return False


def test_files_of_the_page_are_not_asked_of_replicas_again(address: str) -> None:
    first = httpx.get(f"{address}/assets/page.js")
    assert first.content == Files.body
    # Whatever callers say to have another copy made.
    for url, headers in [
        ("/assets/page.js?again=1", {}),
        ("/assets/page.js", {"host": "elsewhere"}),
        ("/assets/page.js", {"authorization": "Bearer key", "cache-control": "no-cache", "pragma": "no-cache"}),
    ]:
        again = httpx.get(f"{address}{url}", headers=headers)
        assert (again.status_code, again.content) == (200, Files.body)
        assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert Files.asked.count("/assets/page.js") == 1
    own = httpx.get(f"{address}/assets/page.js", headers={"x-request-id": "mine-1"})
    assert own.headers.get_list("x-request-id") == ["mine-1"]
    other = httpx.get(f"{address}/assets/page.js", headers={"x-request-id": 'no" good'})
    assert other.headers["x-request-id"] != 'no" good'
    # Part of a file is the replica's to send, and nothing else is kept.
    httpx.get(f"{address}/assets/page.js", headers={"range": "bytes=0-1"})
    for _ in range(2):
        httpx.get(f"{address}/v1/model")
    assert Files.asked.count("/assets/page.js") == 2
    assert Files.asked.count("/v1/model") == 2


def test_slow_readers_of_large_files_do_not_fill_the_machine(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    path = "/assets/swagger-ui-bundle.js"

    def ask_and_take_nothing() -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect((host, int(port)))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nRange: bytes=0-\r\n\r\n".encode())
        return connection

    with ExitStack() as slow:
        for _ in range(40):
            slow.enter_context(ask_and_take_nothing())
        deadline = time.monotonic() + 60
        while Files.asked.count(path) < 32:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        refused = httpx.get(f"{address}{path}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert Files.asked.count(path) == 32
        assert httpx.get(f"{address}/assets/page.js").status_code == 200
        assert httpx.get(f"{address}/v1/model").status_code == 200
    # Slow readers that have gone leave their places.
    while (answer := httpx.get(f"{address}{path}")).status_code == 503:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer.content == Files.body


@pytest.mark.parametrize("grpc_port", [None, 9000])
@pytest.mark.parametrize("prefixes", [(), ("/",), ("/", "/other")])
def test_each_application_over_http_has_a_pause_of_its_own(
    prefixes: tuple[str, ...], grpc_port: int | None, tmp_path: Path
) -> None:
    text = rewrite(configuration_of(tmp_path, *prefixes, grpc_port=grpc_port), {}, MANY_FILES, REFUSALS)
    pauses = re.findall(r"http-response set-var\((proc\S+)\)", text)
    assert len(pauses) == len(set(pauses)) == len(prefixes)
    assert text.count("http-request use-service lua.imgcls_refuse ") == len(prefixes)


def test_while_a_full_replica_pauses_haproxy_refuses_in_its_place(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Files, "pause_ms", 60_000)
    with httpx.Client(base_url=address) as client:
        first = client.post("/v1/classify", content=b"1")
        assert (first.status_code, "x-imgcls-pause-ms" in first.headers) == (503, False)
        for path in ("/v1/classify", "/v2/models/m/infer", "/image-classification"):
            refused = client.post(path, content=bytes(5_000_000), headers={"x-request-id": "mine-1"})
            headers, body = error_answer(no_room(), path, "mine-1")
            assert (refused.status_code, refused.content) == (503, body)
            assert dict(refused.headers) == {name.decode(): value.decode() for name, value in headers}
        other = client.post("/v1/classify", content=b"1", headers={"x-request-id": 'no" good'})
        assert re.fullmatch("[0-9a-f-]{36}", other.headers["x-request-id"])
        assert other.json()["error"]["request_id"] == other.headers["x-request-id"]
        # As replicas: the whole of the first one.
        for ids in (['a, no" good'], ['no" good', "mine-1"]):
            answer = client.post("/v1/classify", content=b"1", headers=[("x-request-id", given) for given in ids])
            assert re.fullmatch("[0-9a-f-]{36}", answer.json()["error"]["request_id"])
        two = client.post("/v1/classify", content=b"1", headers=[("x-request-id", "one"), ("x-request-id", 'no" good')])
        assert two.json()["error"]["request_id"] == "one"
        # Only the first came to the replica, which is still asked for anything else.
        assert Files.posted == [None]
        assert client.get("/v1/model").status_code == 200


def test_after_the_pause_the_replica_is_asked_and_told_how_many_were_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Files, "pause_ms", 700)
    httpx.post(f"{address}/v1/classify", content=b"1")
    assert [httpx.post(f"{address}/v1/classify", content=b"1").status_code for _ in range(3)] == [503] * 3
    assert len(Files.posted) == 1
    monkeypatch.setattr(Files, "pause_ms", 0)
    time.sleep(0.8)
    # What a caller says of it counts for nothing.
    answers = [
        httpx.post(f"{address}/v1/classify", content=b"1", headers={"x-imgcls-refused": "9"}).status_code
        for _ in range(2)
    ]
    assert (answers, Files.posted) == ([200, 200], [None, "3", None])


def test_haproxy_refuses_before_the_body_and_the_connection_stays(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Files, "pause_ms", 60_000)
    httpx.post(f"{address}/v1/classify", content=b"1")
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        for _ in range(3):
            connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
            answer = connection.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"connection: close" not in answer.lower()
            connection.sendall(bytes(1_000_000))
    assert len(Files.posted) == 1
