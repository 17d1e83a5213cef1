"""What every storage does alike: listing, reading, stores, create-only files, faults. One table of tests for all."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from benchmarks.faults import OUTLIVED
from imgcls_ray.errors import ImageError, ImageErrorCode, InputError, LabelStoreError, StorageError
from imgcls_ray.inputs.listing import list_found
from imgcls_ray.storage import FetchLimits, fetch, fetch_range, object_client, open_directory, open_file
from imgcls_ray.storage.create_only import prove_create_only
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.storage.object_client import forget_clients
from imgcls_ray.storage.object_wire import ObstoreWire
from imgcls_ray.storage.options import StorageOptions
from tests.s3.proxy import Fault, Faults, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgcls_ray.storage.files import FileInfo
    from tests.gcs.server import GcsServer
    from tests.s3.proxy import Kind, S3Proxy

OPTIONS = StorageOptions()
ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}
CONTENT = random.Random(0).randbytes(3 * 2**20 + 123)


@pytest.fixture
def faulty(far_place: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """A proxy before the server of the place; attempts follow one another at once."""
    monkeypatch.setattr(random, "uniform", lambda _least, _most: 0.0)
    name = ENDPOINTS[far_place[:2]]
    url = os.environ[name]
    upstream, path = url[: url.index("/", 8)] if "/" in url[8:] else url, url[8:].partition("/")[2]
    with s3_proxy(upstream) as proxy:
        monkeypatch.setenv(name, f"{proxy.endpoint_url}/{path}".rstrip("/"))
        forget_clients()
        yield proxy


def listed(source: str, counts: ListingCounts | None = None) -> list[FileInfo]:
    return list(list_found(source, counts or ListingCounts(), OPTIONS))


def write(place: str, *names: str) -> None:
    directory = open_directory(place)
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda name: directory.replace(name, f"content of {name}".encode()), names))


def code_of(uri: str, etag: str | None = None, limits: FetchLimits | None = None) -> ImageErrorCode:
    with pytest.raises(ImageError) as caught:
        fetch(uri, etag, limits or FetchLimits())
    return caught.value.code


# Inputs


def test_inputs_are_listed_in_order_with_sizes_and_versions(place: str) -> None:
    names = ["a/1.jpg", "a/b/2.jpg", "a-b/3.jpg", "a.jpg", "é ü/4%20.jpg", "#?&/5.jpg"]
    write(place, *names)
    found = listed(f"{place}/")
    assert [info.uri for info in found] == sorted(f"{place}/{name}" for name in names)
    assert all(info.size and info.etag and info.mtime for info in found)
    assert [fetch(info.uri, info.etag, FetchLimits()) for info in found] == [
        f"content of {name}".encode() for name in sorted(names)
    ]


def test_a_folder_of_many_pages_is_listed_whole_and_in_order(place: str) -> None:
    names = [f"many/{i:04d}.jpg" for i in range(230)]
    write(place, *names)
    assert [info.uri for info in listed(f"{place}/many/")] == [f"{place}/{name}" for name in names]


def test_a_pattern_lists_what_it_matches(place: str) -> None:
    write(place, "a/1.jpg", "a/2.png", "b/3.jpg")
    assert [info.uri for info in listed(f"{place}/*/*.jpg")] == [f"{place}/a/1.jpg", f"{place}/b/3.jpg"]


def test_one_file_is_an_input_by_its_name(place: str) -> None:
    write(place, "a/1.jpg", "a/1.jpg.bak")
    (info,) = listed(f"{place}/a/1.jpg")
    assert (info.uri, info.size) == (f"{place}/a/1.jpg", 18)


def test_a_replaced_input_has_changed(place: str) -> None:
    write(place, "a/1.jpg")
    (info,) = listed(f"{place}/a/1.jpg")
    open_directory(place).replace("a/1.jpg", b"another, longer picture")
    assert code_of(info.uri, info.etag) == ImageErrorCode.CHANGED


def test_an_input_that_is_gone_is_not_found(place: str) -> None:
    write(place, "a/1.jpg")
    assert code_of(f"{place}/a/2.jpg") == ImageErrorCode.NOT_FOUND


@pytest.mark.parametrize("name", ["\udcff.jpg", "a//\udcff.jpg", "x" * 1100])
def test_an_input_that_no_object_can_be_called_is_not_found(far_place: str, name: str) -> None:
    if "//" in name and not far_place.startswith("s3"):
        pytest.skip("such names are refused for their parts")
    write(far_place, "a/1.jpg")
    assert code_of(f"{far_place}/{name}") == ImageErrorCode.NOT_FOUND


def test_an_input_over_the_limit_is_not_read(place: str) -> None:
    write(place, "a/1.jpg")
    assert code_of(f"{place}/a/1.jpg", limits=FetchLimits(max_bytes=10)) == ImageErrorCode.TOO_MANY_BYTES


def test_inputs_are_read_without_the_event_loop(far_place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(far_place, "a/1.jpg")
    monkeypatch.delattr(ObstoreWire, "get")
    assert fetch(f"{far_place}/a/1.jpg", None, FetchLimits()) == b"content of a/1.jpg"


@pytest.mark.parametrize(("offset", "length"), [(0, 10), (3_000_000, 500_000), (5, 0), (len(CONTENT) - 1, 10)])
def test_a_range_is_read_of_the_version_that_was_planned(place: str, offset: int, length: int) -> None:
    open_directory(place).replace("shard.tar", CONTENT)
    (info,) = listed(f"{place}/*.tar")
    data = fetch_range(info.uri, offset, length, info.etag, FetchLimits())
    assert data == CONTENT[offset : offset + length]


def test_a_range_of_another_version_has_changed(place: str) -> None:
    open_directory(place).replace("shard.tar", CONTENT)
    (info,) = listed(f"{place}/*.tar")
    open_directory(place).replace("shard.tar", CONTENT + b"more")
    with pytest.raises(ImageError) as caught:
        fetch_range(info.uri, 0, 10, info.etag, FetchLimits())
    assert caught.value.code == ImageErrorCode.CHANGED


def test_a_list_is_read_from_any_storage(place: str) -> None:
    open_directory(place).replace("list.csv", b"uri\na.jpg\n")
    with open_file(f"{place}/list.csv", OPTIONS) as file:
        assert file.read() == b"uri\na.jpg\n"


# Stores


def test_a_file_is_created_once(place: str) -> None:
    directory = open_directory(place)
    assert directory.create("parts/1", b"first")
    assert not directory.create("parts/1", b"second")
    assert directory.read("parts/1") == b"first"
    assert directory.exists("parts/1")
    directory.remove("parts/1")
    directory.remove("parts/1")
    assert not directory.exists("parts/1")


def test_of_eight_that_race_one_creates(place: str) -> None:
    contents = [f"by {i}".encode() for i in range(8)]
    with ThreadPoolExecutor(8) as executor:
        won = list(executor.map(lambda content: open_directory(place).create("lease", content), contents))
    assert won.count(True) == 1
    assert open_directory(place).read("lease") == contents[won.index(True)]


def test_create_only_is_proven(place: str) -> None:
    prove_create_only(open_directory(place))


def test_entries_are_the_files_and_folders_directly_in_a_folder(place: str) -> None:
    write(place, "plans/1.json", "plans/1/0.parquet", "plans/2.json", "plans.json")
    directory = open_directory(place)
    assert sorted(directory.entries()) == ["plans", "plans.json"]
    assert sorted(directory.entries("plans")) == ["1", "1.json", "2.json"]
    assert sorted(directory.entries("plans", starts_with="1")) == ["1", "1.json"]
    assert list(directory.entries("nothing")) == []


@pytest.mark.parametrize("num_bytes", [0, 1, len(CONTENT)])
def test_an_open_file_is_read_from_its_end(place: str, num_bytes: int) -> None:
    directory = open_directory(place)
    directory.replace("file", CONTENT[:num_bytes])
    with directory.open("file") as file:
        file.seek(-min(num_bytes, 100), os.SEEK_END)
        assert file.read() == CONTENT[max(0, num_bytes - 100) : num_bytes]
        file.seek(0)
        assert file.read(1000) == CONTENT[: min(num_bytes, 1000)]


def test_a_large_file_is_copied_in_parts(place: str, tmp_path: Path) -> None:
    content = CONTENT * 11
    (tmp_path / "file").write_bytes(content)
    directory = open_directory(place)
    directory.replace_from("export", str(tmp_path / "file"))
    assert directory.read("export") == content


def test_what_is_not_there_is_not_found(place: str) -> None:
    write(place, "a")
    for how in ("read", "open"):
        with pytest.raises(FileNotFoundError):
            getattr(open_directory(place), how)("b")


# Errors


def test_a_bucket_that_is_not_there_is_refused(far_place: str) -> None:
    with pytest.raises(InputError, match="there is no bucket"):
        listed(f"{far_place}-of-nobody/in/")
    with pytest.raises(LabelStoreError, match="there is no bucket"):
        list(open_directory(f"{far_place}-of-nobody/labels").entries())


@pytest.mark.parametrize("name", ["No Bucket!", "a b"])
def test_a_name_that_no_bucket_can_have_is_refused(far_place: str, name: str) -> None:
    with pytest.raises(InputError, match=f"there is no bucket '{name}'"):
        listed(f"{far_place[:2]}://{name}/x")


WRONG = {
    "s3": ("AWS_SECRET_ACCESS_KEY", "wrong"),
    "gs": ("GOOGLE_BEARER_TOKEN", "wrong"),
    "az": ("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc="),
}


def test_wrong_credentials_end_the_command_and_are_not_told(far_place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, value = WRONG[far_place[:2]]
    monkeypatch.setenv(name, value)
    forget_clients()
    with pytest.raises(StorageError, match=r"; check .*credentials") as caught:
        listed(f"{far_place}/in/")
    assert value not in str(caught.value)


def test_an_account_that_is_not_named_is_told(container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    forget_clients()
    with pytest.raises(StorageError, match=r"set AZURE_STORAGE_ACCOUNT_NAME"):
        listed(f"{container}/in/")


def test_an_address_of_hadoop_names_its_account(container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(container, "in/1.jpg")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    forget_clients()
    root = f"abfss://{container[5:]}@devstoreaccount1.dfs.core.windows.net"
    assert [info.uri for info in listed(f"{root}/in/")] == [f"{root}/in/1.jpg"]


@pytest.mark.parametrize("name", ["a//b.jpg", "a/../b.jpg", "./b.jpg", "a\n.jpg"])
def test_a_name_that_is_no_path_costs_its_row(gcs_bucket: str, name: str) -> None:
    assert code_of(f"{gcs_bucket}/{name}") == ImageErrorCode.UNSUPPORTED_STORAGE


def test_a_key_that_is_no_path_is_told(gcs: GcsServer, gcs_bucket: str) -> None:
    gcs.store(gcs_bucket[5:], "in/a//b.jpg", b"x", {})
    with pytest.raises(StorageError, match=r'in/a//b\.jpg" contained empty path segment'):
        listed(f"{gcs_bucket}/in/")


def test_empty_markers_of_folders_are_left_out(gcs: GcsServer, gcs_bucket: str) -> None:
    # In the listing, "in/a/" comes behind "in/a-b".
    for key, data in (
        ("in/", b""),
        ("in/a-b/2.jpg", b"x"),
        ("in/a/", b""),
        ("in/a/1.jpg", b"x"),
        ("in/empty.jpg", b""),
    ):
        gcs.store(gcs_bucket[5:], key, data, {})
    folder = f"{gcs_bucket}/in/"
    assert [info.uri for info in listed(folder)] == [
        f"{folder}{name}" for name in ("a-b/2.jpg", "a/1.jpg", "empty.jpg")
    ]
    assert sorted(open_directory(f"{gcs_bucket}/in").entries()) == ["a", "a-b", "empty.jpg"]


def test_who_pays_is_told(gcs: GcsServer, gcs_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(gcs_bucket, "in/1.jpg")
    options = StorageOptions(requester_pays=True)
    with pytest.raises(StorageError, match="GOOGLE_CLOUD_PROJECT"):
        fetch(f"{gcs_bucket}/in/1.jpg", None, FetchLimits(storage=options))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "project-of-tests")
    gcs.payers.clear()
    forget_clients()
    assert fetch(f"{gcs_bucket}/in/1.jpg", None, FetchLimits(storage=options))
    assert set(gcs.payers) == {"project-of-tests"}


def test_a_fork_of_a_process_that_used_object_storage_is_told_so_and_does_not_hang(gcs_bucket: str) -> None:
    write(gcs_bucket, "in/1.jpg")
    directory = open_directory(gcs_bucket)
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            with pytest.raises(StorageError) as one:
                fetch(f"{gcs_bucket}/in/1.jpg", None, FetchLimits())
            with pytest.raises(StorageError) as other:
                directory.read("in/1.jpg")
            os.write(writing, f"{one.value}\n{other.value}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        assert told.read().count(b"a fork of one that used object storage") == 2
    os.waitpid(child, 0)


# Faults


# The emulator of Azure's takes most of the time, and all three share what the faults attack.
@pytest.mark.parametrize("far_place", ["s3", "gs", pytest.param("az", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("fault", [name for name in OUTLIVED if name != "none"])
def test_a_fault_costs_no_input_and_doubles_no_file(
    far_place: str, faulty: S3Proxy, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgcls_ray.storage.object_stores.READ_TIMEOUT_S", 1.0)
    monkeypatch.setattr("imgcls_ray.storage.object_stores.QUICK_TIMEOUT_S", 1.0)
    names = [f"in/{i:03d}.jpg" for i in range(120)]
    write(far_place, *names)
    forget_clients()
    faulty.set_faults(OUTLIVED[fault])
    found = listed(f"{far_place}/in/")
    assert [info.uri for info in found] == [f"{far_place}/{name}" for name in names]
    directory = open_directory(f"{far_place}/store")

    def label(info: FileInfo) -> bool:
        data = fetch(info.uri, info.etag, FetchLimits())
        return directory.create(f"parts/{info.uri.rpartition('/')[2]}", data)

    with ThreadPoolExecutor(16) as executor:
        assert all(executor.map(label, found))
        assert not any(executor.map(label, found))
    assert sorted(directory.entries("parts")) == [name[3:] for name in names]
    assert [directory.read(f"parts/{name[3:]}") for name in names[::10]] == [
        f"content of {name}".encode() for name in names[::10]
    ]


@pytest.mark.parametrize(("kind", "code"), [("denied", "access_denied"), ("missing", "not_found")])
def test_a_refusal_is_not_tried_again(far_place: str, faulty: S3Proxy, kind: Kind, code: str) -> None:
    write(far_place, "in/1.jpg")
    faulty.set_faults(Faults((Fault(kind, ("get",)),)))
    assert code_of(f"{far_place}/in/1.jpg") == code
    assert faulty.counts().requests == {"get": 1}


def test_a_server_that_turns_everything_away_is_asked_sixteen_times(far_place: str, faulty: S3Proxy) -> None:
    write(far_place, "in/1.jpg")
    faulty.set_faults(Faults((Fault("slow_down"),)))
    with pytest.raises(StorageError, match=r"503 SlowDown by the proxy; tried 16 times"):
        open_directory(far_place).read("in/1.jpg")
    assert faulty.counts().num_requests == object_client._MAX_ATTEMPTS
