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

from imgcls_ray.errors import ImageError, ImageErrorCode, StorageError
from imgcls_ray.storage import FetchLimits, fetch, fetch_range, object_client, open_directory
from imgcls_ray.storage.object_client import client_of, forget_clients
from imgcls_ray.storage.object_failures import Failure, explain
from imgcls_ray.storage.options import StorageOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from obstore.store import S3Config

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
        is_chunked = self.path.endswith("/chunked")
        length = ("Transfer-Encoding", "chunked") if is_chunked else ("Content-Length", str(len(content)))
        for name, value in (("ETag", '"e"'), length):
            self.send_header(name, value)
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 08:00:00 GMT")
        self.end_headers()
        self.wfile.write(b"1\r\nx\r\n0\r\n\r\n" if is_chunked else content)

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


@pytest.mark.usefixtures("own_server")
def test_an_answer_of_an_unknown_length_costs_its_row() -> None:
    with pytest.raises(ImageError, match="does not say how many bytes") as caught:
        fetch("s3://bucket/chunked", None, FetchLimits())
    assert caught.value.code == ImageErrorCode.FETCH_FAILED
    assert fetch("s3://bucket/odd//chunked", None, FetchLimits()) == b"x"


@pytest.mark.usefixtures("own_server")
@pytest.mark.parametrize("name", ["a", "odd//a"])
def test_a_server_that_sends_the_whole_for_a_part_is_found_out(name: str) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        fetch_range(f"s3://bucket/{name}", 10, 5, None, FetchLimits())


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


class _Aws:
    """A client that is busy when it is first asked for a bucket, and then tells no more than its region."""

    def __init__(self, host: str) -> None:
        self.meta = SimpleNamespace(endpoint_url=f"https://{host}", region_name="us-east-1")
        self._is_busy = True

    async def head_bucket(self, **_: str) -> dict[str, str]:
        headers = {} if self._is_busy else {"x-amz-bucket-region": "eu-west-1"}
        about = {"HTTPStatusCode": 503 if self._is_busy else 403, "HTTPHeaders": headers}
        self._is_busy = False
        raise ClientError({"ResponseMetadata": about}, "HeadBucket")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("s3.amazonaws.com", "s3.eu-west-1.amazonaws.com"),
        ("s3.us-east-1.amazonaws.com", "s3.eu-west-1.amazonaws.com"),
        ("s3.cn-north-1.amazonaws.com.cn", "s3.eu-west-1.amazonaws.com.cn"),
        ("s3-fips.us-east-1.amazonaws.com", "s3-fips.eu-west-1.amazonaws.com"),
        ("s3.dualstack.us-east-1.amazonaws.com", "s3.dualstack.eu-west-1.amazonaws.com"),
    ],
)
@pytest.mark.parametrize(("name", "is_in_the_host"), [("photos", True), ("photos.example.com", False)])
@pytest.mark.usefixtures("bucket")
def test_a_bucket_of_aws_is_asked_for_in_its_region_by_its_host(
    monkeypatch: pytest.MonkeyPatch, host: str, expected: str, name: str, is_in_the_host: bool
) -> None:
    config = _config_of(name, host, monkeypatch)
    assert config == {
        "region": "eu-west-1",
        "virtual_hosted_style_request": is_in_the_host,
        "endpoint": f"https://{name}.{expected}" if is_in_the_host else f"https://{expected}",
    }


@pytest.mark.usefixtures("bucket")
def test_an_endpoint_of_a_private_network_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    host = "bucket.vpce-1a2b-3c.s3.us-east-1.vpce.amazonaws.com"
    config = _config_of("photos", host, monkeypatch)
    assert config == {"region": "us-east-1", "virtual_hosted_style_request": False, "endpoint": f"https://{host}"}


def _config_of(name: str, host: str, monkeypatch: pytest.MonkeyPatch) -> S3Config:
    client = client_of("s3://", StorageOptions())
    assert client.s3 is not None
    monkeypatch.setattr(client.s3, "_made", _Aws(host))
    s3 = client.s3
    return client.retried(lambda _: s3.config_of(name), 5)


@pytest.mark.usefixtures("no_keys")
def test_a_program_that_gives_no_credentials_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("[profile work]\ncredential_process = sleep 3\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setattr(object_client, "CREDENTIALS_DEADLINE_S", 0.5)
    with pytest.raises(StorageError, match="no credentials came within"):
        fetch("s3://bucket/a", None, FetchLimits())


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
