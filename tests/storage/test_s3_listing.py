"""Listings: every object once, in the order of the URIs, whatever the names and whatever happens to the pages."""

from __future__ import annotations

import itertools
import random
import threading
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.storage import FetchLimits, fetch, object_listing
from imgcls_ray.storage.files import FileInfo
from imgcls_ray.storage.object_client import ObjectClient, client_of
from imgcls_ray.storage.object_failures import Failure, ObjectError
from imgcls_ray.storage.object_listing import is_any_under, list_level, list_objects
from imgcls_ray.storage.options import StorageOptions
from tests.s3.proxy import Fault, Faults

if TYPE_CHECKING:
    from tests.s3.proxy import Kind, S3Proxy
    from tests.s3.server import S3Server
    from tests.storage.conftest import Crowd

ODD_NAMES = [
    "a b.jpg",
    " leading and trailing ",
    "100%.jpg",
    "a%20b.jpg",
    "a+b.jpg",
    "a&b=c.jpg",
    "what?.jpg",
    "#1.jpg",
    "it's.jpg",
    'say "hi".jpg',
    "<tag>&amp;.jpg",
    "back\\slash.jpg",
    "semi;colon,comma:@$!~()_.jpg",
    "{x}|y`^[z].jpg",
    "*star*.jpg",
    "tab\t.jpg",
    "new\nline.jpg",
    "bell\x07.jpg",
    "caf\u00e9.jpg",
    "cafe\u0301.jpg",
    "日本.jpg",
    "🐱.jpg",
    "\uffee.jpg",
    "double//slash.jpg",
    ".hidden",
    "dot/./x.jpg",
    "dots/../x.jpg",
]


@pytest.fixture
def client(bucket: str) -> ObjectClient:
    del bucket  # for the environment
    return client_of("s3://", StorageOptions())


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _least, _most: 0.0)


@pytest.fixture
def ranges_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges begin behind the first page, not only in a listing of many thousands."""
    monkeypatch.setattr(object_listing, "_PAGES_BEFORE_RANGES", 1)


@pytest.fixture
def many_pages(monkeypatch: pytest.MonkeyPatch, ranges_at_once: None) -> None:
    """The crowd is more than 50 pages long, most of them in ranges."""
    del ranges_at_once
    monkeypatch.setattr(object_listing, "_PAGE_KEYS", 100)


def put(s3: S3Server, bucket: str, *keys: str, body: bytes = b"x") -> None:
    for key in keys:
        s3.client().put_object(Bucket=bucket, Key=key, Body=body)


def keys_in(client: ObjectClient, bucket: str, prefix: str = "") -> list[str]:
    return [info.uri.removeprefix(f"s3://{bucket}/") for info in list_objects(client, f"s3://{bucket}", prefix)]


def sorted_keys(crowd: Crowd, prefix: str = "") -> list[str]:
    """The keys as a listing must give them: without the one empty marker of a folder."""
    return sorted(key for key in crowd.keys if key.startswith(prefix) and key != "x/")


def listing_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("list_")]


# What a listing holds


@pytest.mark.parametrize(("keys_of_a_page", "pages_before_ranges"), [(1000, 8), (1000, 3), (300, 1), (100, 8)])
def test_all_objects_of_many_pages_and_folders_come_once_and_sorted(
    crowd: Crowd,
    client: ObjectClient,
    keys_of_a_page: int,
    pages_before_ranges: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_listing, "_PAGE_KEYS", keys_of_a_page)
    monkeypatch.setattr(object_listing, "_PAGES_BEFORE_RANGES", pages_before_ranges)
    assert keys_in(client, crowd.bucket) == sorted_keys(crowd)


@pytest.mark.parametrize("prefix", ["long/", "days/", "many/", "deep/", "deep/a/a/", "x/", "x", "days/2026-01-1"])
@pytest.mark.usefixtures("ranges_at_once")
def test_all_objects_under_a_prefix_come_once_and_sorted(crowd: Crowd, client: ObjectClient, prefix: str) -> None:
    assert keys_in(client, crowd.bucket, prefix) == sorted_keys(crowd, prefix)


@pytest.mark.parametrize("prefix", ["nothing/", "long/x", "~~"])
def test_there_is_nothing_under_a_prefix_that_no_key_has(crowd: Crowd, client: ObjectClient, prefix: str) -> None:
    assert keys_in(client, crowd.bucket, prefix) == []


def test_an_object_is_listed_with_its_size_version_and_time(s3: S3Server, bucket: str, client: ObjectClient) -> None:
    put(s3, bucket, "a/b.jpg", body=b"12345")
    head = s3.client().head_object(Bucket=bucket, Key="a/b.jpg")
    (info,) = list_objects(client, f"s3://{bucket}", "")
    assert info[:3] == FileInfo(f"s3://{bucket}/a/b.jpg", 5, head["ETag"].strip('"'), None)[:3]
    assert info.mtime is not None
    assert info.mtime.replace(microsecond=0) == head["LastModified"]


def test_names_of_every_kind_are_listed_and_read_as_they_are(s3: S3Server, bucket: str, client: ObjectClient) -> None:
    for i, name in enumerate(ODD_NAMES):
        put(s3, bucket, f"odd/{name}", body=f"content {i}".encode())
    uris = [info.uri for info in list_objects(client, f"s3://{bucket}", "odd/")]
    assert uris == sorted(f"s3://{bucket}/odd/{name}" for name in ODD_NAMES)
    contents = {uri: fetch(uri, None, FetchLimits()) for uri in uris}
    assert contents == {f"s3://{bucket}/odd/{name}": f"content {i}".encode() for i, name in enumerate(ODD_NAMES)}


def test_empty_markers_of_folders_are_left_out(s3: S3Server, bucket: str, client: ObjectClient) -> None:
    put(s3, bucket, "a/", "a/b/", "c/", body=b"")
    put(s3, bucket, "a/1", "c/not-a-marker/")
    put(s3, bucket, "empty", body=b"")
    assert keys_in(client, bucket) == ["a/1", "c/not-a-marker/", "empty"]


@pytest.mark.parametrize("keys_of_a_page", [1, 3, 10, 50])
@pytest.mark.usefixtures("ranges_at_once")
def test_wherever_pages_and_ranges_end_nothing_is_lost_or_doubled(
    s3: S3Server, bucket: str, client: ObjectClient, keys_of_a_page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_listing, "_PAGE_KEYS", keys_of_a_page)
    monkeypatch.setattr(object_listing, "_PAGES_OF_A_RANGE", 0)  # every folder begins one
    # "/" sorts between "." and "0". Some keys are folder names, where ranges are cut.
    rng = random.Random(keys_of_a_page)
    keys = {"".join(rng.choices("a/0.", (3, 3, 2, 2), k=rng.randint(1, 7))).lstrip("/") for _ in range(90)} - {""}
    put(s3, bucket, *keys)
    assert keys_in(client, bucket) == sorted(keys)


def test_an_empty_bucket_has_nothing(bucket: str, client: ObjectClient) -> None:
    assert keys_in(client, bucket) == []


def test_a_level_gives_a_folder_once(crowd: Crowd, client: ObjectClient) -> None:
    level = list(list_level(client, f"s3://{crowd.bucket}", ""))
    assert level == sorted(
        [
            "days",
            "days/",
            "deep/",
            "first.jpg",
            "long.jpg",
            "long/",
            "many/",
            "x",
            "x-1",
            "x.1",
            "x/",
            "x0",
            "xx/",
            "~last.jpg",
        ]
    )


@pytest.mark.parametrize(("prefix", "expected"), [("", True), ("long/0", True), ("long/9", False), ("lone", False)])
def test_one_request_tells_whether_there_is_anything(
    crowd: Crowd, proxy: S3Proxy, client: ObjectClient, prefix: str, expected: bool
) -> None:
    assert is_any_under(client, f"s3://{crowd.bucket}", prefix) == expected
    assert proxy.counts().requests == {"list": 1}


# How it is listed


def test_few_pages_are_asked_for_once_each(crowd: Crowd, proxy: S3Proxy, client: ObjectClient) -> None:
    assert len(keys_in(client, crowd.bucket)) > 2900
    assert proxy.counts().requests == {"list": 3}


@pytest.mark.usefixtures("ranges_at_once")
def test_small_folders_are_listed_some_at_a_time(
    crowd: Crowd, proxy: S3Proxy, client: ObjectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_listing, "_PAGE_KEYS", 100)
    assert len(keys_in(client, crowd.bucket, "many/")) == 1050
    # 11 pages of a key per folder: one range for each folder would take a hundred more.
    assert proxy.counts().requests["list"] < 30


@pytest.mark.parametrize(
    ("prefix", "before", "expected"),
    [
        # Enough folders on one level: their own folders are not asked for.
        ("", ["a"], ["days/", "deep/", "long/", "many/", "x/", "xx/"]),
        ("days/", ["days/2026-01-03/059.jpg"], [f"days/2026-01-{day:02d}/" for day in range(4, 13)]),
        # Too few: those in the folder of the last key are taken with those behind it.
        ("", ["many/1020/1.jpg"], [*(f"many/{i:04d}/" for i in range(1021, 1050)), "x/", "x/1/", "xx/"]),
        # Where folders are small, a range has several: four folders in eight pages were before, so two in four pages.
        (
            "days/",
            [f"days/2026-01-{day:02d}/000.jpg" for day in range(1, 5)],
            [f"days/2026-01-{day:02d}/" for day in range(5, 13, 2)],
        ),
        ("long/", ["long/00099.jpg"], []),
    ],
)
def test_ranges_are_cut_at_folders_behind_what_is_listed(
    crowd: Crowd,
    client: ObjectClient,
    prefix: str,
    before: list[str],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_listing, "_THREADS", 6)
    assert client.s3 is not None
    assert object_listing._cut_points(client, client.s3, f"s3://{crowd.bucket}", prefix, before) == expected


@pytest.mark.usefixtures("ranges_at_once")
def test_ranges_are_listed_at_once(
    crowd: Crowd, proxy: S3Proxy, client: ObjectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_listing, "_PAGE_KEYS", 50)
    proxy.set_faults(Faults(list_delay_s=0.2))
    list(list_objects(client, f"s3://{crowd.bucket}", "days/"))
    assert 4 <= proxy.counts().most_at_once["list"] <= 8


def test_the_first_objects_come_before_the_last_page(crowd: Crowd, proxy: S3Proxy, client: ObjectClient) -> None:
    assert next(list_objects(client, f"s3://{crowd.bucket}", "")).uri == f"s3://{crowd.bucket}/{sorted_keys(crowd)[0]}"
    assert proxy.counts().requests == {"list": 1}


@pytest.mark.usefixtures("ranges_at_once")
def test_a_listing_that_nobody_reads_on_ends(
    crowd: Crowd, proxy: S3Proxy, client: ObjectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_listing, "_PAGE_KEYS", 10)
    monkeypatch.setattr(object_listing, "_PAGES_OF_A_RANGE", 0)
    proxy.set_faults(Faults(list_delay_s=0.2))
    objects = list_objects(client, f"s3://{crowd.bucket}", "days/")
    assert len(list(itertools.islice(objects, 12))) == 12
    objects.close()  # type: ignore[attr-defined]
    assert not listing_threads()
    # Of the 6 or 7 pages of each of 8 ranges that had begun, some had come and one was on its way.
    assert proxy.counts().requests["list"] < 8 * 4


# What happens to pages


@pytest.mark.parametrize("kind", ["slow_down", "bad_gateway", "reset", "truncate"])
@pytest.mark.usefixtures("no_pauses", "many_pages")
def test_pages_that_fail_are_asked_for_again(crowd: Crowd, proxy: S3Proxy, client: ObjectClient, kind: Kind) -> None:
    proxy.set_faults(Faults((Fault(kind, ("list",), rate=0.3),), seed=2))
    assert keys_in(client, crowd.bucket) == sorted_keys(crowd)
    assert proxy.counts().faults[kind] > 5


@pytest.mark.parametrize("prefix", ["", "long/", "days/", "many/"])
@pytest.mark.usefixtures("no_pauses", "many_pages")
def test_pages_that_come_again_double_and_lose_nothing(
    crowd: Crowd, proxy: S3Proxy, client: ObjectClient, prefix: str
) -> None:
    proxy.set_faults(Faults((Fault("repeat_page", ("list",), rate=0.5),)))
    assert keys_in(client, crowd.bucket, prefix) == sorted_keys(crowd, prefix)
    assert proxy.counts().faults["repeat_page"] > 3


@pytest.mark.usefixtures("no_pauses")
def test_a_page_that_comes_again_for_ever_ends_the_listing(crowd: Crowd, proxy: S3Proxy, client: ObjectClient) -> None:
    proxy.set_faults(Faults((Fault("repeat_page", ("list",)),)))
    with pytest.raises(ObjectError, match=r"^a page of the listing came again, at 'long/00000.jpg'; tried 16 times$"):
        keys_in(client, crowd.bucket, "long/")
    assert proxy.counts().requests == {"list": 1 + 16}


@pytest.mark.usefixtures("no_pauses")
def test_a_page_that_never_comes_ends_the_listing(crowd: Crowd, proxy: S3Proxy, client: ObjectClient) -> None:
    proxy.set_faults(Faults((Fault("slow_down", ("list",), after=1),)))
    with pytest.raises(ObjectError, match=r"^503 SlowDown by the proxy; tried 16 times$") as caught:
        keys_in(client, crowd.bucket, "long/")
    assert caught.value.failure is Failure.PASSING
    assert proxy.counts().requests == {"list": 1 + 16}


@pytest.mark.parametrize("num_pages_before", [0, 1, 2, 5, 12])
@pytest.mark.usefixtures("many_pages")
def test_a_bucket_that_disappears_ends_the_listing_at_once(
    crowd: Crowd, proxy: S3Proxy, client: ObjectClient, num_pages_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_listing, "_PAGES_OF_A_RANGE", 0)  # 200 ranges
    proxy.set_faults(Faults((Fault("no_bucket", after=num_pages_before),)))
    with pytest.raises(ObjectError, match=r"404 NoSuchBucket") as caught:
        keys_in(client, crowd.bucket)
    assert caught.value.failure is Failure.NO_BUCKET
    assert not listing_threads()
    # Nothing is tried again, and not every range finds out for itself.
    assert proxy.counts().requests["list"] < 100
