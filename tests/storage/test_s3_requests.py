"""What a reader of objects is told, how often it asks, and what it never tells: a real server, and one that fails.

An object is asked for in the fast way first, once, and then in the careful one. What holds for both is tried in both;
attempts are counted in the careful way alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import random
import socket
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

import pytest
from botocore.exceptions import EndpointConnectionError

from imgcls_ray.errors import ConfigError, ImageError, ImageErrorCode, ImgclsError, InputError, StorageError
from imgcls_ray.storage import FetchLimits, fetch, fetch_range, object_client, object_reading, object_stores
from imgcls_ray.storage.object_client import ObjectClient, forget_clients
from imgcls_ray.storage.object_failures import Failure, ObjectError
from imgcls_ray.storage.object_reading import ObjectReader
from imgcls_ray.storage.options import StorageOptions
from imgcls_ray.storage.schemes import split_uri
from tests.s3.proxy import Fault, Faults, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.s3.proxy import Kind, S3Proxy
    from tests.s3.server import S3Server

CONTENT = bytes(range(256)) * 100

EACH_WAY = pytest.mark.usefixtures("each_way")
CAREFUL = pytest.mark.usefixtures("careful")


@pytest.fixture
def image(s3: S3Server, bucket: str) -> str:
    """The URI of an object with ``CONTENT``."""
    s3.client().put_object(Bucket=bucket, Key="in/1.jpg", Body=CONTENT)
    return f"s3://{bucket}/in/1.jpg"


@pytest.fixture
def careful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast way can tell nothing."""
    monkeypatch.setattr(ObjectReader, "_read_now", lambda *_, **__: None)


@pytest.fixture(params=["fast", "careful"])
def each_way(request: pytest.FixtureRequest) -> None:
    if request.param == "careful":
        request.getfixturevalue("careful")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Attempts follow at once; how long each pause might have been is kept."""
    longest: list[float] = []

    def uniform(_least: float, most: float) -> float:
        longest.append(most)
        return 0.0

    monkeypatch.setattr(random, "uniform", uniform)
    return longest


def read(uri: str, etag: str | None = None, *, max_bytes: int = 10**6, timeout_s: float = 30.0) -> bytes:
    return fetch(uri, etag, FetchLimits(max_bytes=max_bytes, timeout_s=timeout_s))


def error_of(uri: str, etag: str | None = None, *, max_bytes: int = 10**6, timeout_s: float = 30.0) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read(uri, etag, max_bytes=max_bytes, timeout_s=timeout_s)
    return caught.value


def go_wrong(proxy: S3Proxy, kind: Kind, *, count: int | None = None, after: int = 0) -> None:
    proxy.set_faults(Faults((Fault(kind, count=count, after=after),)))


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_a_part_of_an_object_ends_where_the_object_ends(s3: S3Server, bucket: str) -> None:
    s3.client().put_object(Bucket=bucket, Key="a b#c", Body=b"0123456789")
    uri, limits = f"s3://{bucket}/a b#c", FetchLimits(max_bytes=1)
    etag = s3.client().head_object(Bucket=bucket, Key="a b#c")["ETag"].strip('"')
    for offset, length, expected in ((0, 3, b"012"), (8, 5, b"89"), (10, 1, b""), (99, 5, b"")):
        assert fetch_range(uri, offset, length, etag, limits) == expected
    for changed, code in ((uri, ImageErrorCode.CHANGED), (f"{uri}.none", ImageErrorCode.NOT_FOUND)):
        with pytest.raises(ImageError) as caught:
            fetch_range(changed, 0, 3, "0" * 32, limits)
        assert caught.value.code is code


# What is read


@EACH_WAY
def test_an_object_is_read_whole(image: str) -> None:
    assert read(image) == CONTENT


@EACH_WAY
def test_an_empty_object_is_no_bytes(s3: S3Server, bucket: str) -> None:
    s3.client().put_object(Bucket=bucket, Key="empty", Body=b"")
    assert read(f"s3://{bucket}/empty") == b""


@EACH_WAY
def test_an_object_of_the_planned_version_is_read(s3: S3Server, bucket: str, image: str) -> None:
    etag = s3.client().head_object(Bucket=bucket, Key="in/1.jpg")["ETag"].strip('"')
    assert read(image, etag) == CONTENT


@EACH_WAY
def test_an_object_replaced_after_it_was_listed_has_changed(s3: S3Server, bucket: str, image: str) -> None:
    etag = s3.client().head_object(Bucket=bucket, Key="in/1.jpg")["ETag"].strip('"')
    s3.client().put_object(Bucket=bucket, Key="in/1.jpg", Body=b"another picture")
    assert error_of(image, etag).code == ImageErrorCode.CHANGED


@EACH_WAY
def test_without_a_planned_version_whatever_is_there_is_read(s3: S3Server, bucket: str, image: str) -> None:
    s3.client().put_object(Bucket=bucket, Key="in/1.jpg", Body=b"another picture")
    assert read(image) == b"another picture"


@EACH_WAY
def test_an_object_that_is_gone_is_not_found(bucket: str) -> None:
    assert error_of(f"s3://{bucket}/in/gone.jpg").code == ImageErrorCode.NOT_FOUND


@EACH_WAY
def test_an_archived_object_has_to_be_restored_first(proxy: S3Proxy, image: str) -> None:
    go_wrong(proxy, "archived")
    error = error_of(image)
    assert error.code == ImageErrorCode.ARCHIVED
    assert error.code.is_transient
    assert str(error).startswith("it is in an archive storage class and has to be restored first (403 InvalidObjectSt")
    assert proxy.counts().requests == {"get": 1}


@EACH_WAY
def test_an_object_that_others_may_not_read_is_denied(
    s3: S3Server, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = s3.add_user("reader-without-rights")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)
    assert error_of(image).code == ImageErrorCode.ACCESS_DENIED


@EACH_WAY
def test_a_user_whom_the_policy_allows_to_read_but_not_to_list_can_read(
    s3: S3Server, bucket: str, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = s3.add_user("reader-of-objects")
    allowed = {
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam:::user/reader-of-objects"},
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    s3.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)
    assert read(image) == CONTENT


@EACH_WAY
def test_public_objects_are_read_without_credentials(
    s3: S3Server, bucket: str, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    s3.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a wrong one, which is not used")
    assert fetch(image, None, FetchLimits(storage=StorageOptions(anonymous=True))) == CONTENT


@EACH_WAY
def test_the_given_endpoint_goes_before_the_environments(
    s3: S3Server, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    assert fetch(image, None, FetchLimits(storage=StorageOptions(s3.endpoint_url))) == CONTENT


@EACH_WAY
def test_too_many_bytes_are_not_downloaded(s3: S3Server, proxy: S3Proxy, bucket: str) -> None:
    # Larger than what the buffers between the two ends of a connection take.
    num_bytes = 40 * 2**20
    s3.client().put_object(Bucket=bucket, Key="large", Body=bytes(num_bytes))
    error = error_of(f"s3://{bucket}/large", max_bytes=1000)
    assert error.code == ImageErrorCode.TOO_MANY_BYTES
    assert error.detail == "41,943,040 bytes, the limit is 1,000"
    assert proxy.counts().requests == {"get": 1}
    assert proxy.counts().body_bytes < num_bytes / 2


@EACH_WAY
def test_as_many_bytes_as_the_limit_are_read(image: str) -> None:
    assert read(image, max_bytes=len(CONTENT)) == CONTENT


@EACH_WAY
def test_many_threads_read_at_once_and_get_their_own(s3: S3Server, proxy: S3Proxy, bucket: str) -> None:
    for i in range(16):
        s3.client().put_object(Bucket=bucket, Key=f"{i}", Body=f"content {i}".encode())
    proxy.set_faults(Faults(get_delay_s=0.2))
    with ThreadPoolExecutor(32) as executor:
        contents = list(executor.map(read, [f"s3://{bucket}/{i % 16}" for i in range(64)]))
    assert contents == [f"content {i % 16}".encode() for i in range(64)]
    assert proxy.counts().most_at_once["get"] > 16


def test_an_address_without_a_bucket_is_refused() -> None:
    with pytest.raises(InputError, match=r"^s3:///key: names no bucket; write s3://BUCKET/PREFIX$"):
        split_uri("s3:///key")


@pytest.mark.parametrize("point", ["accesspoint/photos", "accesspoint:photos"])
def test_the_arn_of_an_access_point_is_refused_with_the_way_out(point: str) -> None:
    uri = f"s3://arn:aws:s3:eu-west-1:123456789012:{point}/a.jpg"
    with pytest.raises(InputError, match=r"name an access point by its alias, s3://NAME-\.\.\.-s3alias/PREFIX"):
        split_uri(uri)
    with pytest.raises(ImageError) as caught:
        fetch(uri, None, FetchLimits())
    assert caught.value.code == ImageErrorCode.NOT_FOUND


def test_the_fast_way_reads_objects_by_itself(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ObjectClient, "get")
    assert read(image) == CONTENT


# What is tried again


@EACH_WAY
@pytest.mark.parametrize("kind", ["slow_down", "internal_error", "bad_gateway", "reset", "reset_midway", "truncate"])
def test_what_may_pass_is_tried_again(proxy: S3Proxy, image: str, pauses: list[float], kind: Kind) -> None:
    go_wrong(proxy, kind, count=3)
    assert read(image) == CONTENT
    assert proxy.counts().requests == {"get": 4}
    assert pauses


@EACH_WAY
@pytest.mark.parametrize("kind", ["stall", "stall_midway"])
def test_silence_is_tried_again(
    proxy: S3Proxy, image: str, pauses: list[float], kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_stores, "READ_TIMEOUT_S", 0.5)
    monkeypatch.setattr(object_stores, "QUICK_TIMEOUT_S", 0.5)
    go_wrong(proxy, kind, count=2)
    assert read(image) == CONTENT
    assert proxy.counts().requests == {"get": 3}
    assert pauses


@CAREFUL
def test_pauses_are_random_up_to_a_bound_that_doubles(proxy: S3Proxy, image: str, pauses: list[float]) -> None:
    go_wrong(proxy, "slow_down", count=9)
    assert read(image) == CONTENT
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


@CAREFUL
def test_pauses_are_kept(proxy: S3Proxy, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _least, most: most)
    go_wrong(proxy, "slow_down", count=3)
    began = time.monotonic()
    assert read(image) == CONTENT
    assert time.monotonic() - began >= 0.1 + 0.2 + 0.4


@CAREFUL
@pytest.mark.usefixtures("pauses")
def test_attempts_are_counted_out(proxy: S3Proxy, image: str) -> None:
    go_wrong(proxy, "slow_down")
    error = error_of(image)
    assert error.code == ImageErrorCode.FETCH_FAILED
    assert error.detail == "503 SlowDown by the proxy; tried 16 times"
    assert proxy.counts().requests == {"get": 16}


@CAREFUL
@pytest.mark.usefixtures("pauses")
def test_connections_that_break_for_ever_are_counted_out(proxy: S3Proxy, image: str) -> None:
    go_wrong(proxy, "reset")
    error = error_of(image)
    assert error.code == ImageErrorCode.FETCH_FAILED
    assert error.detail == "the connection broke: [Errno 104] Connection reset by peer; tried 16 times"
    # The connection's library asks once more by itself when a connection breaks.
    assert proxy.counts().requests["get"] <= 2 * 16


@EACH_WAY
@pytest.mark.parametrize("kind", ["slow_down", "reset", "truncate"])
def test_attempts_end_with_the_deadline(proxy: S3Proxy, image: str, kind: Kind) -> None:
    read(image)  # on a busy machine, opening a bucket takes longer than the deadline below
    go_wrong(proxy, kind)
    began = time.monotonic()
    error = error_of(image, timeout_s=0.8)
    assert error.code == ImageErrorCode.FETCH_FAILED
    assert time.monotonic() - began < 2
    assert "; tried " in error.detail
    assert 2 <= proxy.counts().requests["get"] <= 2 * 16


@EACH_WAY
@pytest.mark.parametrize("kind", ["stall", "stall_midway"])
def test_silence_ends_with_the_deadline(proxy: S3Proxy, image: str, kind: Kind) -> None:
    go_wrong(proxy, kind)
    began = time.monotonic()
    error = error_of(image, timeout_s=0.5)
    assert error.code == ImageErrorCode.FETCH_FAILED
    assert error.detail.startswith("no answer within the time; tried ")
    assert time.monotonic() - began < 2


@EACH_WAY
@pytest.mark.parametrize("kind", ["slow_down", "reset", "denied", "missing", "no_bucket"])
@pytest.mark.usefixtures("pauses")
def test_whatever_goes_wrong_the_number_of_requests_is_bounded(proxy: S3Proxy, image: str, kind: Kind) -> None:
    go_wrong(proxy, kind)
    error_of(image)
    assert proxy.counts().requests["get"] <= (2 if kind in ("denied", "missing", "no_bucket") else 1 + 2 * 16)


@CAREFUL
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("denied", ImageErrorCode.ACCESS_DENIED),
        ("missing", ImageErrorCode.NOT_FOUND),
        ("no_bucket", ImageErrorCode.FETCH_FAILED),
    ],
)
def test_a_refusal_is_not_tried_again(proxy: S3Proxy, image: str, kind: Kind, code: ImageErrorCode) -> None:
    go_wrong(proxy, kind)
    assert error_of(image).code == code
    assert proxy.counts().requests == {"get": 1}


@EACH_WAY
def test_another_version_is_not_tried_again(proxy: S3Proxy, image: str) -> None:
    assert error_of(image, "0" * 32).code == ImageErrorCode.CHANGED
    # One question more: it might be a weak ETag, which no condition meets.
    assert proxy.counts().requests == {"get": 1, "head": 1}


# What ends a command


@EACH_WAY
def test_a_server_that_cannot_be_reached_ends_the_command(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(StorageError, match=r"cannot be read: .*; tried \d+ times; check the endpoint and the network$"):
        read(image, timeout_s=0.5)


@CAREFUL
@pytest.mark.usefixtures("pauses")
def test_a_server_that_answered_before_is_given_more_time_to_come_back(
    s3: S3Server, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_proxy(s3.endpoint_url) as own:
        monkeypatch.setenv("AWS_ENDPOINT_URL", own.endpoint_url)
        assert read(image) == CONTENT
    with pytest.raises(StorageError, match=r"; tried 16 times; check the endpoint and the network$"):
        read(image)


def test_a_deadline_in_the_middle_of_an_attempt_hides_no_reason(bucket: str) -> None:
    del bucket

    async def attempt(number: int) -> None:
        if number == 1:
            raise EndpointConnectionError(endpoint_url="http://nowhere", error=OSError())
        await asyncio.sleep(30)

    with pytest.raises(ObjectError, match=r"^Could not connect to the endpoint URL.*; tried 2 times$") as caught:
        object_client.client_of("s3://", StorageOptions()).retried(attempt, 1.0)
    assert caught.value.failure is Failure.UNREACHABLE


@CAREFUL
def test_a_wrong_secret_ends_the_command_after_one_request(
    proxy: S3Proxy, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match=r"SignatureDoesNotMatch.*; check credentials \(environment, ~/.aws, role\)"):
        read(image)
    assert proxy.counts().requests == {"get": 1}


@CAREFUL
def test_an_unknown_key_ends_the_command_after_one_request(
    proxy: S3Proxy, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(StorageError, match=r"InvalidAccessKeyId.*; check credentials \(environment, ~/.aws, role\)"):
        read(image)
    assert proxy.counts().requests == {"get": 1}


@EACH_WAY
def test_no_credentials_end_the_command_before_any_request(
    proxy: S3Proxy, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=r"Unable to locate credentials; check credentials"):
        read(image)
    assert proxy.counts().requests == {}


@CAREFUL
def test_failures_in_a_row_without_one_success_end_the_command(
    proxy: S3Proxy, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_reading, "_MAX_FAILURES_IN_A_ROW", 3)
    monkeypatch.setattr(object_client, "_MAX_ATTEMPTS", 1)
    go_wrong(proxy, "internal_error")
    assert [error_of(image).code for _ in range(2)] == [ImageErrorCode.FETCH_FAILED] * 2
    with pytest.raises(StorageError, match=r"500 InternalError.*; the storage is not well, run the command again"):
        read(image)


@CAREFUL
@pytest.mark.parametrize(
    ("between", "expected"), [((), None), ((Fault("missing", count=1),), ImageErrorCode.NOT_FOUND)]
)
def test_an_answer_between_failures_starts_their_count_anew(
    proxy: S3Proxy,
    image: str,
    between: tuple[Fault, ...],
    expected: ImageErrorCode | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_reading, "_MAX_FAILURES_IN_A_ROW", 3)
    monkeypatch.setattr(object_client, "_MAX_ATTEMPTS", 1)
    go_well_first = 0 if between else 1
    before, behind = Fault("internal_error", count=2), Fault("internal_error", after=go_well_first, count=2)
    proxy.set_faults(Faults((before, *between, behind)))
    codes: list[ImageErrorCode | None] = []
    for _ in range(5):
        try:
            read(image)
        except ImageError as error:
            codes.append(error.code)
        else:
            codes.append(None)
    failed = ImageErrorCode.FETCH_FAILED
    assert codes == [failed, failed, expected, failed, failed]


@CAREFUL
def test_a_bucket_that_is_gone_ends_the_command_in_the_end(
    proxy: S3Proxy, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_reading, "_MAX_FAILURES_IN_A_ROW", 3)
    go_wrong(proxy, "no_bucket")
    assert [error_of(image).code for _ in range(2)] == [ImageErrorCode.FETCH_FAILED] * 2
    with pytest.raises(StorageError, match=r"NoSuchBucket.*; check the bucket's name, and the endpoint$"):
        read(image)


def test_a_name_that_no_bucket_can_have_is_that_of_no_bucket(bucket: str) -> None:
    del bucket
    with pytest.raises(ObjectError) as caught:
        object_client.client_of("s3://", StorageOptions()).head("s3://no bucket!", "x")
    assert caught.value.failure is Failure.NO_BUCKET


# What is never told

SECRETS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "s3cr3t-K3y", "AWS_SESSION_TOKEN": "t0k3n"}


def test_options_hold_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    limits = FetchLimits(storage=StorageOptions("http://127.0.0.1:1"))
    with pytest.raises(StorageError):
        fetch(f"s3://{bucket}/x", None, FetchLimits(timeout_s=1, storage=limits.storage))
    client = object_client.client_of("s3://", limits.storage)
    told = (repr(limits) + repr(client) + client.place).encode() + pickle.dumps(limits)
    assert not [value for value in SECRETS.values() if value.encode() in told]
    assert pickle.loads(pickle.dumps(limits)) == limits


@EACH_WAY
@pytest.mark.parametrize("kind", ["denied", "slow_down", "reset", "no_bucket", None])
def test_errors_and_logs_hold_no_credentials(
    proxy: S3Proxy, image: str, kind: Kind | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Without a fault the server itself says that it does not know the key.
    monkeypatch.setattr(object_client, "_MAX_ATTEMPTS", 2)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRETS["AWS_ACCESS_KEY_ID"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["AWS_SECRET_ACCESS_KEY"])
    if kind:
        go_wrong(proxy, kind)
    with caplog.at_level(logging.INFO), pytest.raises((ImageError, ImgclsError)) as caught:
        read(image)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    assert not [value for value in SECRETS.values() if value in told]


@EACH_WAY
def test_a_wrong_signature_is_reported_without_the_request_that_was_signed(
    image: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["AWS_SECRET_ACCESS_KEY"])
    with caplog.at_level(logging.DEBUG), pytest.raises(StorageError) as caught:
        read(image)
    told = "".join(traceback.format_exception(caught.value))
    assert "SignatureDoesNotMatch" in told
    assert "AWS4-HMAC-SHA256" not in told
    assert SECRETS["AWS_SECRET_ACCESS_KEY"] not in told + caplog.text


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://key:secret@s3.example.com", "credentials do not belong there"),
        ("s3.example.com", "expected http(s)://HOST[:PORT], got 's3.example.com'"),
        ("ftp://key:secret@s3.example.com", "credentials do not belong there"),
    ],
)
def test_an_endpoint_that_is_no_address_or_holds_secrets_is_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        StorageOptions(url)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


# Servers that know versions in their own way


class Server(NamedTuple):
    """A server that has every object, as version ``etag``, and heeds ``If-Match`` or not."""

    url: str
    asked: list[tuple[str, str | None]]
    """Method and ``If-Match`` of each request."""


@pytest.fixture
def own_server(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Start such a server; it is in the environment in place of the other one."""
    del bucket
    servers = []

    def start(etag: str, *, heeds: bool) -> Server:
        asked: list[tuple[str, str | None]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                wanted = self.headers.get("If-Match")
                asked.append((self.command, wanted))
                # A weak one never meets the condition (RFC 9110, 13.1.1).
                is_met = not heeds or wanted is None or wanted == etag
                self.send_response(200 if is_met else 412)
                content = CONTENT if is_met else b"<Error><Code>PreconditionFailed</Code></Error>"
                for name, value in (("ETag", etag), ("Content-Length", str(len(content)))):
                    self.send_header(name, value)
                self.send_header("Last-Modified", "Thu, 01 Jan 2026 08:00:00 GMT")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        forget_clients()
        return Server(url, asked)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@EACH_WAY
def test_a_server_that_does_not_heed_the_condition_is_found_out(own_server: Callable[..., Server]) -> None:
    own_server('"new"', heeds=False)
    assert error_of("s3://bucket/1.jpg", "old").code == ImageErrorCode.CHANGED
    assert read("s3://bucket/1.jpg", "new") == CONTENT
    assert read("s3://bucket/1.jpg") == CONTENT


@EACH_WAY
@pytest.mark.parametrize("planned", ["abc", 'W/"abc"', 'W/"abc'])
def test_weak_versions_are_compared_by_their_value(own_server: Callable[..., Server], planned: str) -> None:
    server = own_server('W/"abc"', heeds=True)
    assert read("s3://bucket/1.jpg", planned) == CONTENT
    server.asked.clear()
    # Once known, no condition is sent that cannot be met.
    assert read("s3://bucket/2.jpg", planned) == CONTENT
    assert server.asked == [("GET", None)]
    assert error_of("s3://bucket/3.jpg", "other").code == ImageErrorCode.CHANGED


@EACH_WAY
def test_another_weak_version_has_changed(own_server: Callable[..., Server]) -> None:
    own_server('W/"new"', heeds=True)
    assert error_of("s3://bucket/1.jpg", "old").code == ImageErrorCode.CHANGED
