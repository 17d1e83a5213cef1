"""Credentials that expire, and what else is sent with requests to S3: who pays, the key that encrypts."""

from __future__ import annotations

import json
import stat
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError
from obstore.exceptions import GenericError

from imgcls_ray.errors import StorageError
from imgcls_ray.storage import FetchLimits, fetch, open_directory
from imgcls_ray.storage.object_client import client_of, forget_clients
from imgcls_ray.storage.object_failures import Failure, explain
from imgcls_ray.storage.options import StorageOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROCESS = """\
import datetime, json, pathlib
log = pathlib.Path({log!r})
number = len(log.read_text()) + 1 if log.exists() else 1
log.write_text("x" * number)
now = datetime.datetime.fromisoformat(pathlib.Path({clock!r}).read_text())
print(json.dumps({{"Version": 1, "AccessKeyId": f"KEY{{number}}", "SecretAccessKey": "secret", "SessionToken": "t",
    "Expiration": (now + datetime.timedelta(hours=1)).isoformat()}}))
"""


@pytest.fixture
def no_keys(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    del bucket  # for the environment
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


@pytest.mark.usefixtures("no_keys")
def test_credentials_of_an_hour_are_renewed_through_a_run_of_twelve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, clock, program = tmp_path / "log", tmp_path / "clock", tmp_path / "keys.py"
    program.write_text(PROCESS.format(log=str(log), clock=str(clock)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "config").write_text(f"[profile work]\ncredential_process = {sys.executable} {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    began = datetime.now(UTC)
    now = began
    clock.write_text(now.isoformat())
    s3 = client_of("s3://", StorageOptions()).s3
    assert s3 is not None
    s3.signing_keys()
    s3._session._credentials._time_fetcher = lambda: now
    given = []
    for minutes in range(0, 12 * 60, 5):  # as often as obstore asks
        now = began + timedelta(minutes=minutes)
        clock.write_text(now.isoformat())
        keys = s3.signing_keys()
        given.append(int(keys["access_key_id"][3:]))
        assert keys["expires_at"] is not None
        assert keys["expires_at"] - datetime.now(UTC) <= timedelta(minutes=10)
    assert given == sorted(given)
    assert 12 <= given[-1] <= 16


class _Server(ThreadingHTTPServer):
    """Keeps the headers of what it is asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, dict[str, str]]] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, {name.lower(): value for name, value in self.headers.items()}))
        content = b"<ListBucketResult></ListBucketResult>" if "list-type" in self.path else b"x"
        content = content if self.command == "GET" else b""
        self.send_response(200)
        for name, value in (("ETag", '"e"'), ("Content-Length", str(len(content)))):
            self.send_header(name, value)
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 08:00:00 GMT")
        self.end_headers()
        self.wfile.write(content)

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def own_server(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    del bucket
    server = _Server()
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    forget_clients()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["a", "odd//a"])
def test_who_requests_pays_and_a_key_encrypts_what_is_written(own_server: _Server, name: str) -> None:
    options = StorageOptions(requester_pays=True, kms_key="arn:aws:kms:key/1")
    directory = open_directory("s3://bucket/store", options)
    assert directory.create(name, b"x")
    assert fetch(f"s3://bucket/store/{name}", None, FetchLimits(storage=options)) == b"x"
    assert list(directory.entries()) == []
    (put, written), (get, read), (_, listed) = own_server.asked
    assert (put, get) == ("PUT", "GET")
    assert {headers.get("x-amz-request-payer") for headers in (read, listed)} == {"requester"}
    assert written["x-amz-server-side-encryption"] == "aws:kms"
    assert written["x-amz-server-side-encryption-aws-kms-key-id"] == "arn:aws:kms:key/1"
    assert "x-amz-server-side-encryption" not in read


def test_requests_go_through_the_proxy_of_the_environment(own_server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # A server that nobody could reach but through the proxy, which is the one above.
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{own_server.server_address[1]}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{own_server.server_address[1]}")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.invalid:9000")
    forget_clients()
    assert fetch("s3://bucket/a", None, FetchLimits()) == b"x"
    assert list(open_directory("s3://bucket/store").entries()) == []
    assert [headers["host"] for _, headers in own_server.asked] == ["storage.invalid:9000"] * 2


@pytest.mark.parametrize(("name", "is_in_the_host"), [("photos", True), ("photos.example.com", False)])
@pytest.mark.usefixtures("bucket")
def test_a_bucket_of_aws_is_asked_for_in_its_region_by_its_host(
    monkeypatch: pytest.MonkeyPatch, name: str, is_in_the_host: bool
) -> None:
    class Aws:
        meta = SimpleNamespace(endpoint_url="https://s3.us-east-1.amazonaws.com", region_name="us-east-1")

        async def head_bucket(self, **_: str) -> dict[str, str]:
            response = {"ResponseMetadata": {"HTTPHeaders": {"x-amz-bucket-region": "eu-west-1"}}}
            raise ClientError(response, "HeadBucket")

    client = client_of("s3://", StorageOptions())
    assert client.s3 is not None
    monkeypatch.setattr(client.s3, "_made", Aws())
    s3 = client.s3
    config = client.retried(lambda _: s3.config_of(name), 5)
    assert config == {"region": "eu-west-1", "virtual_hosted_style_request": is_in_the_host}


def test_a_key_of_aws_is_refused_where_it_would_not_encrypt(gcs_bucket: str) -> None:
    with pytest.raises(StorageError, match="kms_key is for s3:// only"):
        open_directory(gcs_bucket, StorageOptions(kms_key="k")).create("a", b"x")


def test_no_query_of_an_address_is_told() -> None:
    text = "Generic error: GET https://host/c/b?sv=1&sig=s3cr3t in 3ms - unreadable\n\nDebug source:\nGeneric {}"
    assert explain(GenericError(text)) == (
        Failure.STORAGE,
        "Generic error: GET https://host/c/b?... in 3ms - unreadable",
    )


def test_options_with_a_key_are_plain_and_comparable() -> None:
    options = StorageOptions(kms_key="k", requester_pays=True)
    assert json.loads(json.dumps(vars(options))) == vars(options)
