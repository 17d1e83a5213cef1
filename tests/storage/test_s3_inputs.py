"""INPUT on object storage: what an address means, and what is said of one that means nothing."""

from __future__ import annotations

import json
import random
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.errors import InputError, StorageError
from imgcls_ray.storage import open_file, s3_inputs, s3_listing
from imgcls_ray.storage.files import FileInfo
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.storage.options import StorageOptions
from imgcls_ray.storage.s3_inputs import check_place, find_object, list_place
from imgcls_ray.storage.s3_requests import S3Client
from tests.s3.proxy import Fault, Faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.s3.proxy import S3Proxy
    from tests.s3.server import S3Server
    from tests.storage.conftest import Crowd

OPTIONS = StorageOptions()
KEYS = ("a.jpg", "a.png", "ab/1.jpg", "ab/c/2.jpg", "ab/c/3.png", "abc/4.jpg", "d[1].jpg", "d1.jpg", "é ü/5.jpg")


@pytest.fixture
def place(s3: S3Server, bucket: str) -> str:
    """The URI of a bucket with ``KEYS``."""
    for key in KEYS:
        s3.client().put_object(Bucket=bucket, Key=key, Body=key.encode())
    return f"s3://{bucket}"


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _least, _most: 0.0)


def keys_in(uri: str) -> list[str]:
    return [info.uri.split("/", 3)[3] for info in list_place(uri, OPTIONS)]


def check(uri: str) -> None:
    check_place(uri, OPTIONS)


def read_list(uri: str) -> bytes:
    with open_file(uri, OPTIONS) as file:
        return file.read()


ASKING = pytest.mark.parametrize("ask", [check, keys_in, read_list])


# One object


def test_an_object_is_found_with_its_size_version_and_time(s3: S3Server, bucket: str, place: str) -> None:
    info = find_object(f"{place}/ab/1.jpg", OPTIONS)
    head = s3.client().head_object(Bucket=bucket, Key="ab/1.jpg")
    assert info == FileInfo(f"{place}/ab/1.jpg", 8, head["ETag"].strip('"'), head["LastModified"])


@pytest.mark.parametrize("name", ["", "/", "/a", "/ab", "/ab/", "/nothing.jpg"])
def test_what_is_no_object_is_not_found_as_one(place: str, name: str) -> None:
    assert find_object(place + name, OPTIONS) is None


def test_an_object_lists_as_itself(place: str) -> None:
    assert keys_in(f"{place}/ab/1.jpg") == ["ab/1.jpg"]


def test_the_listed_version_is_the_one_that_is_found(place: str) -> None:
    (listed,) = (info for info in list_place(place, OPTIONS) if info.uri.endswith("/a.jpg"))
    found = find_object(f"{place}/a.jpg", OPTIONS)
    assert found is not None
    assert found[:3] == listed[:3]


# Prefixes and patterns


@pytest.mark.parametrize("uri_end", ["", "/"])
def test_a_bucket_lists_whole_and_sorted(place: str, uri_end: str) -> None:
    assert keys_in(place + uri_end) == sorted(KEYS)


@pytest.mark.parametrize("uri_end", ["/ab", "/ab/"])
def test_a_prefix_lists_what_is_in_the_folder(place: str, uri_end: str) -> None:
    assert keys_in(place + uri_end) == ["ab/1.jpg", "ab/c/2.jpg", "ab/c/3.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["a.jpg", "a.png", "d1.jpg", "d[1].jpg"]),
        ("*.jpg", ["a.jpg", "d1.jpg", "d[1].jpg"]),
        ("a.???", ["a.jpg", "a.png"]),
        ("*/*.jpg", ["ab/1.jpg", "abc/4.jpg", "é ü/5.jpg"]),
        ("ab/**", ["ab/1.jpg", "ab/c/2.jpg", "ab/c/3.png"]),
        ("**/*.png", ["a.png", "ab/c/3.png"]),
        ("ab/**/*.jpg", ["ab/1.jpg", "ab/c/2.jpg"]),
        ("ab*/*.jpg", ["ab/1.jpg", "abc/4.jpg"]),
        ("ab/[a-c]/[23].*", ["ab/c/2.jpg", "ab/c/3.png"]),
        ("é*/*", ["é ü/5.jpg"]),
        ("nothing*", []),
    ],
)
def test_a_pattern_lists_what_it_matches(place: str, pattern: str, expected: list[str]) -> None:
    assert keys_in(f"{place}/{pattern}") == expected


def test_an_object_named_like_a_pattern_goes_before_the_pattern(place: str) -> None:
    assert keys_in(f"{place}/d[1].jpg") == ["d[1].jpg"]


def put(s3: S3Server, bucket: str, *keys: str) -> None:
    for key in keys:
        s3.client().put_object(Bucket=bucket, Key=key, Body=b"x")


@pytest.mark.parametrize("folder", ["photos [2020]", "what?", "a*b", "[", "x/photos [2020]"])
def test_a_folder_named_like_a_pattern_is_taken_as_it_is(s3: S3Server, bucket: str, folder: str) -> None:
    put(s3, bucket, f"{folder}/a.jpg", f"{folder}/b/c.jpg", "photos 2/other.jpg", "whats/other.jpg", "a-b/other.jpg")
    for uri in (f"s3://{bucket}/{folder}", f"s3://{bucket}/{folder}/"):
        check(uri)
        assert keys_in(uri) == [f"{folder}/a.jpg", f"{folder}/b/c.jpg"]
    assert keys_in(f"s3://{bucket}/{folder}/*.jpg") == [f"{folder}/a.jpg"]
    assert keys_in(f"s3://{bucket}/{folder}/*/") == [f"{folder}/b/c.jpg"]


def test_what_is_only_like_a_pattern_is_one(s3: S3Server, bucket: str) -> None:
    put(s3, bucket, "photos 2/a.jpg", "photos 0/b.jpg", "photos x/c.jpg")
    assert keys_in(f"s3://{bucket}/photos [2020]/") == ["photos 0/b.jpg", "photos 2/a.jpg"]
    assert keys_in(f"s3://{bucket}/photos [2020]/*") == ["photos 0/b.jpg", "photos 2/a.jpg"]


def test_samples_beside_a_store_are_asked_after_once(s3: S3Server, bucket: str, proxy: S3Proxy) -> None:
    put(s3, bucket, *(f"labels/samples/{i}.jpg" for i in range(20)), "labels/store.json", "labels/x.jpg")
    put(s3, bucket, *(f"raw/samples/{i}.jpg" for i in range(2)), "model/model.bin", "model/model.json", "model.bin")
    counts = ListingCounts()
    proxy.set_faults(Faults())
    found = [info.uri.split("/", 3)[3] for info in list_place(f"s3://{bucket}", OPTIONS, counts)]
    assert found == ["labels/x.jpg", "model.bin", "raw/samples/0.jpg", "raw/samples/1.jpg"]
    assert counts == ListingCounts(Counter({"*.json": 2, "model.bin": 1}), stores=1)
    assert proxy.counts().requests == {"head": 4, "list": 1}


def test_a_pattern_asks_only_for_what_can_match(crowd: Crowd, proxy: S3Proxy) -> None:
    assert len(keys_in(f"s3://{crowd.bucket}/days/2026-01-03/*.jpg")) == 60
    # Is there an object of that name, or a folder; one page for the folder. Not the other thousands.
    assert proxy.counts().requests == {"head": 1, "list": 2}


def test_a_pattern_over_many_pages_finds_everything(crowd: Crowd, proxy: S3Proxy) -> None:
    del proxy
    expected = sorted(key for key in crowd.keys if key.endswith("7.jpg"))
    assert keys_in(f"s3://{crowd.bucket}/**/*7.jpg") == expected


# Before a run


@pytest.mark.parametrize("name", ["", "/", "/a.jpg", "/ab", "/ab/", "/*.jpg", "/empty-so-far/", "/no-such/*.jpg"])
def test_a_place_that_may_hold_inputs_is_accepted(place: str, name: str) -> None:
    check(place + name)


@pytest.mark.parametrize("name", ["nothing.jpg", "ab/c/2", "b"])
def test_a_name_that_is_nothing_is_refused(place: str, name: str) -> None:
    with pytest.raises(InputError, match=rf"^{place}/{name}: there is no such object, and none under {place}/{name}/$"):
        check(f"{place}/{name}")


def test_a_name_without_a_bucket_is_refused() -> None:
    with pytest.raises(InputError, match=r"names no bucket; write s3://BUCKET/PREFIX"):
        check("s3:///x")


@pytest.mark.parametrize("ask", [check, keys_in])
@pytest.mark.parametrize("name", ["", "/", "/prefix/", "/*.jpg", "/name"])
def test_a_bucket_that_is_not_there_is_refused(bucket: str, ask: Callable[[str], object], name: str) -> None:
    with pytest.raises(
        InputError, match=rf"^s3://{bucket}-not.*: there is no bucket '{bucket}-not' \(404 NoSuchBucket"
    ):
        ask(f"s3://{bucket}-not{name}")


@pytest.mark.parametrize("ask", [check, keys_in])
def test_a_name_that_no_bucket_can_have_is_refused(bucket: str, ask: Callable[[str], object]) -> None:
    del bucket
    with pytest.raises(InputError, match=r"there is no bucket 'No Bucket!'"):
        ask("s3://No Bucket!/x")


@ASKING
@pytest.mark.parametrize(
    ("name", "words"),
    [("AWS_ACCESS_KEY_ID", "403 InvalidAccessKeyId"), ("AWS_SECRET_ACCESS_KEY", "403 SignatureDoesNotMatch")],
)
def test_wrong_credentials_end_the_command_in_few_requests(
    place: str,
    proxy: S3Proxy,
    ask: Callable[[str], object],
    name: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, "wrong")
    with pytest.raises(StorageError, match=rf"^{place}/ab: cannot be read: .*{words}.*; check credentials"):
        ask(f"{place}/ab")
    assert proxy.counts().num_requests <= 2


@ASKING
def test_no_right_to_look_ends_the_command_in_few_requests(
    s3: S3Server, place: str, proxy: S3Proxy, ask: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = s3.add_user("lister-without-rights")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)
    with pytest.raises(StorageError, match=rf"^{place}/ab: .*403 AccessDenied.*; check the rights of your credentials"):
        ask(f"{place}/ab")
    assert proxy.counts().num_requests <= 2


@ASKING
@pytest.mark.usefixtures("no_pauses")
def test_a_server_that_cannot_be_reached_ends_the_command(
    place: str, ask: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
    with pytest.raises(StorageError, match=r"cannot be read: .*; tried 8 times; check the endpoint and the network$"):
        ask(f"{place}/ab")


def test_a_user_who_may_read_but_not_list_can_name_objects(
    s3: S3Server, bucket: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = s3.add_user("reader-of-inputs")
    allowed = {
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam:::user/reader-of-inputs"},
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    s3.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)
    check(f"{place}/a.jpg")
    assert keys_in(f"{place}/a.jpg") == ["a.jpg"]
    with pytest.raises(StorageError, match=r"403 AccessDenied.*; check the rights of your credentials on it$"):
        check(f"{place}/ab/")


# While a run goes on


def test_a_bucket_that_disappears_while_it_is_listed_is_one_clear_error(
    crowd: Crowd, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_listing, "_PAGE_KEYS", 100)
    proxy.set_faults(Faults((Fault("no_bucket", after=8),)))
    uri = f"s3://{crowd.bucket}/days/"
    with pytest.raises(InputError, match=rf"^{uri}: there is no bucket '{crowd.bucket}' \(404 NoSuchBucket by the pro"):
        keys_in(uri)


@pytest.mark.usefixtures("no_pauses")
def test_a_listing_that_cannot_go_on_is_one_clear_error(crowd: Crowd, proxy: S3Proxy) -> None:
    proxy.set_faults(Faults((Fault("internal_error", ("list",), after=1),)))
    with pytest.raises(StorageError, match=r"/long/: cannot be read: .*500 InternalError .*; the storage is not well"):
        keys_in(f"s3://{crowd.bucket}/long/")


# Lists


@pytest.mark.parametrize("num_bytes", [0, 999, 1000, 1001, 3500])
def test_a_list_is_copied_whole_whatever_its_size(
    s3: S3Server, bucket: str, num_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_inputs, "_COPY_BYTES", 1000)
    content = random.Random(0).randbytes(num_bytes)
    s3.client().put_object(Bucket=bucket, Key="list.txt", Body=content)
    assert read_list(f"s3://{bucket}/list.txt") == content


def test_a_list_replaced_while_it_is_copied_is_not_mixed_with_the_new_one(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_inputs, "_COPY_BYTES", 1000)
    s3.client().put_object(Bucket=bucket, Key="list.txt", Body=bytes(2000))
    get = S3Client.get

    def get_and_replace(*args: Any, **kwargs: Any) -> Any:
        answer = get(*args, **kwargs)
        s3.client().put_object(Bucket=bucket, Key="list.txt", Body=b"x" * 2000)
        return answer

    monkeypatch.setattr(S3Client, "get", get_and_replace)
    with pytest.raises(StorageError, match=r"/list.txt: cannot be read: .*412"):
        read_list(f"s3://{bucket}/list.txt")


@pytest.mark.usefixtures("no_pauses")
def test_a_list_is_copied_through_what_passes(
    s3: S3Server, proxy: S3Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_inputs, "_COPY_BYTES", 1000)
    content = random.Random(0).randbytes(20_000)
    s3.client().put_object(Bucket=bucket, Key="list.txt", Body=content)
    proxy.set_faults(Faults((Fault("truncate", ("get",), rate=0.2), Fault("reset_midway", ("get",), rate=0.2))))
    assert read_list(f"s3://{bucket}/list.txt") == content
    assert proxy.counts().num_faults > 3


def test_a_list_that_is_not_there_is_refused(bucket: str) -> None:
    with pytest.raises(InputError, match=rf"^s3://{bucket}/list.txt: there is no such object that may be read$"):
        read_list(f"s3://{bucket}/list.txt")


@pytest.mark.parametrize("name", ["", "/", "/ab/"])
def test_a_list_that_names_no_object_is_refused(place: str, name: str) -> None:
    with pytest.raises(InputError, match=rf"^{place}{name}: there is no such object that may be read$"):
        read_list(place + name)


def test_a_list_in_a_bucket_that_is_not_there_is_refused(bucket: str) -> None:
    with pytest.raises(InputError, match=rf"^s3://{bucket}-not/list.txt: there is no bucket"):
        read_list(f"s3://{bucket}-not/list.txt")
