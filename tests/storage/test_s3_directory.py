"""A label store's place in a bucket: names that appear whole, once, and never over one another."""

from __future__ import annotations

import io
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgcls_ray.errors import InputError, LabelStoreError, StorageError
from imgcls_ray.storage import object_wire, open_directory
from tests.s3.proxy import Fault, Faults

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.storage import Directory
    from tests.s3.proxy import Kind, S3Proxy
    from tests.s3.server import S3Server
    from tests.storage.conftest import Crowd

TAIL = 2**20
LARGE = random.Random(0).randbytes(3 * TAIL + 123)


@pytest.fixture
def store(bucket: str) -> Directory:
    return open_directory(f"s3://{bucket}/labels/run")


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _least, _most: 0.0)


def other_store(store: Directory) -> Directory:
    """The same place as another process sees it, which remembers nothing."""
    return open_directory(store.uri)


def keys_of(s3: S3Server, bucket: str) -> list[str]:
    return [item["Key"] for item in s3.client().list_objects_v2(Bucket=bucket).get("Contents", ())]


# Names


@pytest.mark.parametrize("prefix", ["labels", "labels/"])
def test_a_prefix_means_the_same_with_and_without_its_slash(s3: S3Server, bucket: str, prefix: str) -> None:
    store = open_directory(f"s3://{bucket}/{prefix}")
    store.replace("a/b", b"x")
    assert store.uri == f"s3://{bucket}/labels"
    assert keys_of(s3, bucket) == ["labels/a/b"]


def test_a_whole_bucket_can_be_a_store(s3: S3Server, bucket: str) -> None:
    store = open_directory(f"s3://{bucket}")
    store.replace("a/b", b"x")
    assert list(store.entries()) == ["a"]
    assert keys_of(s3, bucket) == ["a/b"]


# create


def test_a_created_file_is_there_whole(store: Directory) -> None:
    assert store.create("parts/1", b"content")
    assert other_store(store).read("parts/1") == b"content"


def test_creating_over_a_file_leaves_it(store: Directory) -> None:
    store.create("parts/1", b"first")
    assert not store.create("parts/1", b"second")
    assert store.read("parts/1") == b"first"


def test_creating_again_is_refused_to_the_creator_too(store: Directory) -> None:
    store.create("parts/1", b"the same")
    assert not store.create("parts/1", b"the same")


def race(stores: list[Directory], name: str, contents: list[bytes]) -> list[bool]:
    barrier = threading.Barrier(len(stores))

    def create(store: Directory, content: bytes) -> bool:
        barrier.wait()
        return store.create(name, content)

    with ThreadPoolExecutor(len(stores)) as executor:
        return list(executor.map(create, stores, contents))


@pytest.mark.parametrize("distinct", [True, False])
def test_of_eight_that_race_one_creates(store: Directory, distinct: bool) -> None:
    contents = [f"by {i}".encode() if distinct else b"the same" for i in range(8)]
    for turn in range(5):
        won = race([other_store(store) for _ in range(8)], f"lease/{turn}", contents)
        assert won.count(True) == 1
        assert store.read(f"lease/{turn}") == contents[won.index(True)]


@pytest.mark.usefixtures("no_pauses")
def test_of_eight_that_race_one_creates_though_answers_are_lost(store: Directory, proxy: S3Proxy) -> None:
    contents = [f"by {i}".encode() for i in range(8)]
    store = other_store(store)
    proxy.set_faults(
        Faults((Fault("lose_answer", ("put",), rate=0.3), Fault("slow_down", ("put", "head"), rate=0.2)), seed=3)
    )
    for turn in range(5):
        won = race([other_store(store) for _ in range(8)], f"lease/{turn}", contents)
        assert won.count(True) == 1
        assert store.read(f"lease/{turn}") == contents[won.index(True)]
    assert proxy.counts().faults["lose_answer"] > 5


# The connection's library repeats a PUT by itself once: from the second loss on, the store's own attempts do.
@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.usefixtures("no_pauses")
def test_a_creator_whose_answer_is_lost_finds_out_that_it_created(proxy: S3Proxy, bucket: str, times: int) -> None:
    store = open_directory(f"s3://{bucket}/labels")
    proxy.set_faults(Faults((Fault("lose_answer", ("put",), count=times),)))
    assert store.create("parts/1", b"content")
    assert store.read("parts/1") == b"content"
    assert proxy.counts().requests["put"] == times + 1


@pytest.mark.parametrize("theirs", [b"theirs", b"the same"])
@pytest.mark.usefixtures("no_pauses")
def test_an_attempt_that_failed_makes_nobody_elses_file_ones_own(
    store: Directory, proxy: S3Proxy, theirs: bytes
) -> None:
    store.create("parts/1", theirs)
    proxy.set_faults(Faults((Fault("slow_down", ("put",), count=2),)))
    assert not other_store(store).create("parts/1", b"the same")
    assert store.read("parts/1") == theirs


def test_a_file_removed_just_after_it_was_in_the_way_was_somebody_elses(proxy: S3Proxy, bucket: str) -> None:
    store = open_directory(f"s3://{bucket}/labels")
    store.create("lease", b"theirs")
    proxy.set_faults(Faults((Fault("missing", ("head",)),)))
    assert not store.create("lease", b"mine")


@pytest.mark.parametrize("kind", ["slow_down", "bad_gateway", "reset", "truncate"])
@pytest.mark.usefixtures("no_pauses")
def test_every_kind_of_write_goes_through_what_passes(proxy: S3Proxy, bucket: str, tmp_path: Path, kind: Kind) -> None:
    store = open_directory(f"s3://{bucket}/labels")
    (tmp_path / "file").write_bytes(b"from a file")
    proxy.set_faults(Faults(tuple(Fault(kind, key=name, count=3) for name in ("/created", "/replaced", "/copied"))))
    assert store.create("created", b"created")
    store.replace("replaced", b"replaced")
    store.replace_from("copied", str(tmp_path / "file"))
    assert [store.read(name) for name in ("created", "replaced", "copied")] == [b"created", b"replaced", b"from a file"]


@pytest.mark.usefixtures("no_pauses")
def test_a_write_that_never_gets_through_ends_the_command(proxy: S3Proxy, bucket: str) -> None:
    store = open_directory(f"s3://{bucket}/labels")
    proxy.set_faults(Faults((Fault("slow_down", ("put",)),)))
    with pytest.raises(
        StorageError, match=r"/labels/parts/1: cannot be written: .*503 SlowDown.*; tried 16 times; the"
    ):
        store.create("parts/1", b"content")
    assert proxy.counts().requests == {"put": 16}
    proxy.set_faults(Faults())
    assert not store.exists("parts/1")


def test_a_write_without_the_right_ends_the_command_at_once(proxy: S3Proxy, bucket: str) -> None:
    store = open_directory(f"s3://{bucket}/labels")
    proxy.set_faults(Faults((Fault("denied", ("put",)),)))
    with pytest.raises(StorageError, match=r"cannot be written: .*403 AccessDenied.*; check the rights of your cred"):
        store.create("parts/1", b"content")
    assert proxy.counts().requests == {"put": 1}


def test_a_server_without_conditional_writes_is_named(proxy: S3Proxy, bucket: str) -> None:
    store = open_directory(f"s3://{bucket}/labels")
    proxy.set_faults(Faults((Fault("not_implemented", ("put",)),)))
    with pytest.raises(StorageError, match=r"knows no conditional writes \(If-None-Match\).*or a local --output$"):
        store.create("parts/1", b"content")


# replace and replace_from


def test_replacing_leaves_the_new_content(store: Directory) -> None:
    store.replace("status", b"old")
    store.replace("status", b"new")
    assert store.read("status") == b"new"


@pytest.mark.parametrize("num_bytes", [0, 1000])
def test_a_small_local_file_is_copied(store: Directory, tmp_path: Path, num_bytes: int) -> None:
    (tmp_path / "file").write_bytes(LARGE[:num_bytes])
    store.replace("export", b"old")
    store.replace_from("export", str(tmp_path / "file"))
    assert store.read("export") == LARGE[:num_bytes]


def test_a_large_local_file_is_copied_in_parts(proxy: S3Proxy, bucket: str, tmp_path: Path) -> None:
    content = LARGE * 23
    assert len(content) > 2 * 32 * 2**20
    (tmp_path / "file").write_bytes(content)
    store = open_directory(f"s3://{bucket}/labels")
    store.replace_from("export", str(tmp_path / "file"))
    assert proxy.counts().requests == {"upload": 1 + 3 + 1}
    assert store.read("export") == content


@pytest.mark.usefixtures("no_pauses")
def test_a_part_that_fails_is_sent_again(
    proxy: S3Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_wire, "UPLOAD_PART_BYTES", 5 * 2**20)
    content = LARGE * 4
    (tmp_path / "file").write_bytes(content)
    store = open_directory(f"s3://{bucket}/labels")
    proxy.set_faults(Faults((Fault("internal_error", ("upload",), after=1, count=1),)))
    store.replace_from("export", str(tmp_path / "file"))
    assert proxy.counts().faults == {"internal_error": 1}
    assert store.read("export") == content


def test_a_copy_that_fails_leaves_the_older_file_and_no_parts(
    s3: S3Server, proxy: S3Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_wire, "UPLOAD_PART_BYTES", 5 * 2**20)
    (tmp_path / "file").write_bytes(LARGE * 4)
    store = open_directory(f"s3://{bucket}/labels")
    store.replace("export", b"older")
    proxy.set_faults(Faults((Fault("denied", ("upload",), after=2, count=1),)))
    with pytest.raises(StorageError, match=r"/labels/export: cannot be written: .*AccessDenied"):
        store.replace_from("export", str(tmp_path / "file"))
    assert store.read("export") == b"older"
    assert not s3.client().list_multipart_uploads(Bucket=bucket).get("Uploads")


# exists and remove


def test_a_file_exists_from_its_creation_to_its_removal(store: Directory) -> None:
    seen = [store.exists("a/b")]
    store.create("a/b", b"")
    seen.append(store.exists("a/b"))
    store.remove("a/b")
    seen.append(store.exists("a/b"))
    assert seen == [False, True, False]


def test_a_folder_is_no_file(store: Directory) -> None:
    store.create("a/b", b"x")
    assert not store.exists("a")


def test_removing_what_is_gone_does_nothing(store: Directory) -> None:
    store.remove("never/there")


def test_looking_up_without_the_right_ends_the_command(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = s3.add_user("store-without-rights")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)
    with pytest.raises(StorageError, match=r"/labels/a: cannot be looked up: .*403.*; check the rights of your cred"):
        open_directory(f"s3://{bucket}/labels").exists("a")


# entries


def test_entries_are_the_files_and_folders_directly_in_a_folder(store: Directory) -> None:
    for name in ("plans/1.json", "plans/1/0.parquet", "plans/1/1.parquet", "plans/2.json", "plans.json", "a/b/c"):
        store.create(name, b"x")
    assert sorted(store.entries()) == ["a", "plans", "plans.json"]
    assert sorted(store.entries("plans")) == ["1", "1.json", "2.json"]
    assert sorted(store.entries("plans/1")) == ["0.parquet", "1.parquet"]


def test_entries_can_be_those_that_start_with_something(store: Directory) -> None:
    for name in ("parts/0001-a", "parts/0001-b", "parts/0002-a", "parts/00010/x"):
        store.create(name, b"x")
    assert sorted(store.entries("parts", starts_with="0001-")) == ["0001-a", "0001-b"]
    assert sorted(store.entries("parts", starts_with="0001")) == ["0001-a", "0001-b", "00010"]


def test_there_are_no_entries_where_there_is_no_folder(store: Directory) -> None:
    store.create("parts/1", b"x")
    assert list(store.entries("plans")) == []
    assert list(store.entries("part")) == []


def test_a_neighbour_whose_name_begins_the_same_is_not_seen(bucket: str) -> None:
    open_directory(f"s3://{bucket}/labels-of-others").create("a", b"x")
    assert list(open_directory(f"s3://{bucket}/labels").entries()) == []


def test_the_marker_of_a_folder_is_no_entry(s3: S3Server, bucket: str, store: Directory) -> None:
    s3.client().put_object(Bucket=bucket, Key="labels/run/", Body=b"")
    s3.client().put_object(Bucket=bucket, Key="labels/run/parts/", Body=b"")
    store.create("parts/1", b"x")
    assert list(store.entries()) == ["parts"]
    assert list(store.entries("parts")) == ["1"]


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("long", [f"{i:05d}.jpg" for i in range(1101)]), ("many", [f"{i:04d}" for i in range(1050)])],
)
def test_entries_of_more_than_a_page_are_each_there_once(
    crowd: Crowd, proxy: S3Proxy, folder: str, expected: list[str]
) -> None:
    # Files in the one folder, folders in the other; a page comes twice, and one does not come.
    proxy.set_faults(
        Faults((Fault("repeat_page", count=1), Fault("internal_error", count=1), Fault("slow_down", count=1)))
    )
    assert list(open_directory(f"s3://{crowd.bucket}").entries(folder)) == expected
    assert proxy.counts().faults == {"repeat_page": 1, "internal_error": 1, "slow_down": 1}


def test_a_store_in_a_bucket_that_is_not_there_is_refused(bucket: str) -> None:
    store = open_directory(f"s3://{bucket}-of-nobody/labels")
    with pytest.raises(
        LabelStoreError, match=rf"^s3://{bucket}-of-nobody/labels: there is no bucket .*; make it, or check"
    ):
        list(store.entries())


def test_entries_without_the_right_to_list_end_the_command(proxy: S3Proxy, bucket: str) -> None:
    proxy.set_faults(Faults((Fault("denied"),)))
    with pytest.raises(
        StorageError, match=r"/labels/: cannot be listed: .*; check the rights of your credentials on it"
    ):
        list(open_directory(f"s3://{bucket}/labels").entries())


# read and open


@pytest.mark.parametrize("how", ["read", "open"])
def test_a_file_that_is_not_there_is_not_found(store: Directory, how: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"/labels/run/parts/1: there is no such object$"):
        getattr(store, how)("parts/1")


def test_reading_in_a_bucket_that_is_not_there_is_refused(bucket: str) -> None:
    with pytest.raises(LabelStoreError, match=r"there is no bucket"):
        open_directory(f"s3://{bucket}-of-nobody/labels").read("a")


def test_an_empty_file_can_be_opened(store: Directory) -> None:
    store.create("empty", b"")
    with store.open("empty") as file:
        assert file.read() == b""
        assert file.seek(0, io.SEEK_END) == 0


@pytest.mark.parametrize("num_bytes", [1, TAIL - 1, TAIL, TAIL + 1, 3 * TAIL + 123])
def test_an_open_file_reads_like_one_in_memory(store: Directory, num_bytes: int) -> None:
    content = LARGE[:num_bytes]
    store.replace("file", content)
    rng = random.Random(num_bytes)
    with store.open("file") as file, io.BytesIO(content) as memory:
        assert file.seekable()
        for _ in range(20):
            whence = rng.choice([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END])
            base = {io.SEEK_SET: 0, io.SEEK_CUR: memory.tell(), io.SEEK_END: num_bytes}[whence]
            offset = rng.randint(0, num_bytes + 10) - base
            assert file.seek(offset, whence) == memory.seek(offset, whence)
            size = rng.choice([0, 1, 1000, TAIL, num_bytes, -1])
            assert file.read(size) == memory.read(size)
            assert file.tell() == memory.tell()


def test_reading_into_a_buffer_fills_it_to_the_end_of_the_file(store: Directory) -> None:
    store.replace("file", LARGE)
    buffer = bytearray(b"-" * 10)
    with store.open("file") as file:
        file.seek(-4, io.SEEK_END)
        assert file.readinto(buffer) == 4  # type: ignore[attr-defined]
    assert bytes(buffer) == LARGE[-4:] + b"------"


def test_a_small_file_comes_with_one_request_and_stays(proxy: S3Proxy, bucket: str) -> None:
    store = open_directory(f"s3://{bucket}/labels")
    store.replace("file", LARGE[:TAIL])
    for _ in range(3):
        assert store.open("file").read() == LARGE[:TAIL]
    assert proxy.counts().requests == {"put": 1, "get": 1}


def test_of_a_large_file_come_its_tail_and_what_is_read(proxy: S3Proxy, bucket: str) -> None:
    store = open_directory(f"s3://{bucket}/labels")
    store.replace("file", LARGE)
    file = store.open("file")
    file.seek(1000)
    assert file.read(500) == LARGE[1000:1500]
    file.seek(-100, io.SEEK_END)
    assert file.read() == LARGE[-100:]
    assert proxy.counts().requests == {"put": 1, "get": 2}
    assert proxy.counts().body_bytes == TAIL + 500


def test_only_the_tails_opened_last_are_kept(proxy: S3Proxy, bucket: str) -> None:
    store = open_directory(f"s3://{bucket}/labels")
    for i in range(5):
        store.replace(str(i), b"x")
    for name in ("0", "1", "2", "3", "0", "4", "0", "1"):
        store.open(name)
    # Of five, 0 was opened again in time; 1 had gone.
    assert proxy.counts().requests["get"] == 6


def test_a_file_replaced_while_it_is_open_is_not_mixed_with_the_new_one(store: Directory) -> None:
    store.replace("file", LARGE)
    file = store.open("file")
    store.replace("file", bytes(len(LARGE)))
    with pytest.raises(StorageError, match=r"/labels/run/file: cannot be read: .*412"):
        file.read(10)


def test_arrow_reads_columns_of_an_open_file(store: Directory, tmp_path: Path) -> None:
    table = pa.table({"a": list(range(200_000)), "b": [f"{i * 7919 % 200_000}" for i in range(200_000)]})
    pq.write_table(table, tmp_path / "file.parquet", row_group_size=50_000)
    assert (tmp_path / "file.parquet").stat().st_size > TAIL
    store.replace_from("file.parquet", str(tmp_path / "file.parquet"))
    assert pq.ParquetFile(store.open("file.parquet")).read_row_group(1).equals(table.slice(50_000, 50_000))


def test_a_read_goes_through_what_passes(proxy: S3Proxy, bucket: str) -> None:
    store = open_directory(f"s3://{bucket}/labels")
    store.replace("file", LARGE)
    kinds: tuple[Kind, ...] = ("slow_down", "truncate", "reset_midway", "internal_error")
    proxy.set_faults(Faults(tuple(Fault(kind, ("get",), count=1) for kind in kinds)))
    assert store.open("file").read() == LARGE
    assert proxy.counts().num_faults == 4


def test_a_place_without_a_bucket_is_refused() -> None:
    with pytest.raises(InputError, match=r"^s3://: names no bucket; write s3://BUCKET/PREFIX$"):
        open_directory("s3://")
