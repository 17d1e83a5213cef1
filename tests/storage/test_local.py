"""Local files: every way a path can be wrong has its code, names survive the way to a URI, and writes appear whole."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import socket
import tempfile
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.errors import ImageError, ImageErrorCode, InputError, StorageError
from imgcls_ray.storage import FetchLimits, fetch, fetch_range, open_directory
from imgcls_ray.storage.files import FileInfo, path_from_uri, stat_file, uri_from_path
from imgcls_ray.storage.local import LocalDirectory
from imgcls_ray.storage.walking import list_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMITS = FetchLimits(max_bytes=1000)

NASTY_NAMES = [
    "with space.jpg",
    "a#b?c%d+e.jpg",
    "%41.jpg",
    "'single' \"double\".jpg",
    "line\nbreak.jpg",
    "tab\tand\rreturn.jpg",
    "back\\slash.jpg",
    "🐈.jpg",
    unicodedata.normalize("NFC", "é.jpg"),
    unicodedata.normalize("NFD", "é.jpg"),
    "n" * 255,
    "ü" * 127,
    "-leading-dash.jpg",
    "no_suffix",
    "UPPER.JPG",
    "http:",
    "file:",
    "*[?].jpg",
    os.fsdecode(b"latin1-\xe9\xff.jpg"),
]


def code_of(uri: str | Path, etag: str | None = None, *, max_bytes: int = 1000) -> ImageErrorCode:
    with pytest.raises(ImageError) as caught:
        fetch(str(uri), etag, FetchLimits(max_bytes=max_bytes))
    return caught.value.code


def uris(files: Iterator[FileInfo]) -> list[str]:
    return [info.uri for info in files]


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that everybody may enter, for ``as_nobody``; pytest's own are for their owner."""
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    folder = Path(tempfile.mkdtemp(prefix="imgcls-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(call: Callable[[], object]) -> object:
    """The result or the exception of a call in a child process that is not root."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            outcome = call()
        except BaseException as error:  # the parent looks at it
            outcome = error
        os.write(writer, pickle.dumps(outcome))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(answer)


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "length", "expected"), [(0, 3, b"012"), (8, 5, b"89"), (10, 1, b""), (99, 5, b"")])
def test_a_part_of_a_file_ends_where_the_file_ends(offset: int, length: int, expected: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", b"0123456789")
    etag = stat_file(str(path)).etag
    assert fetch_range(str(path), offset, length, etag, LIMITS) == expected
    with pytest.raises(ImageError, match="changed"):
        fetch_range(str(path), offset, length, "other", LIMITS)


def test_a_file_is_read_by_path_and_by_uri(tmp_path: Path) -> None:
    path = write(tmp_path / "a b.jpg", b"content")
    assert fetch(str(path), None, LIMITS) == b"content"
    assert fetch(f"file://{tmp_path}/a%20b.jpg", None, LIMITS) == b"content"
    assert fetch(f"FILE://{tmp_path}/a%20b.jpg", None, LIMITS) == b"content"


def test_an_empty_file_is_no_failure_of_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "empty.jpg", b"")
    assert fetch(str(path), stat_file(str(path)).etag, LIMITS) == b""


def test_paths_that_lead_nowhere_are_not_found(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to("gone.jpg")
    (tmp_path / "a.jpg").symlink_to("b.jpg")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    write(tmp_path / "file.jpg")
    for name in ("missing.jpg", "dangling.jpg", "a.jpg", "file.jpg/below.jpg", "n" * 300, "null\0.jpg"):
        assert code_of(tmp_path / name) is ImageErrorCode.NOT_FOUND, name


def test_a_link_is_read_as_its_target(tmp_path: Path) -> None:
    write(tmp_path / "target.jpg", b"target")
    (tmp_path / "link.jpg").symlink_to("target.jpg")
    assert fetch(str(tmp_path / "link.jpg"), None, LIMITS) == b"target"


def test_a_file_of_mode_000_is_access_denied(public_folder: Path) -> None:
    write(public_folder / "open.jpg").chmod(0o644)
    write(public_folder / "closed.jpg").chmod(0)
    assert as_nobody(lambda: fetch(str(public_folder / "open.jpg"), None, LIMITS)) == b"x"
    refused = as_nobody(lambda: fetch(str(public_folder / "closed.jpg"), None, LIMITS))
    assert isinstance(refused, ImageError)
    assert refused.code is ImageErrorCode.ACCESS_DENIED


@pytest.mark.timeout(10)
def test_what_is_not_a_file_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    for name in ("folder.jpg", "pipe.jpg", "socket.jpg", "endless.jpg"):
        assert code_of(tmp_path / name) is ImageErrorCode.NOT_A_FILE, name


def test_failed_reads_leave_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    large = write(tmp_path / "large.jpg", b"x" * 1001)
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path / "folder.jpg", tmp_path / "pipe.jpg", large, tmp_path / "missing.jpg"):
        code_of(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_over_the_limit_is_refused_without_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "sparse.jpg")
    os.truncate(path, 5 * 2**30)
    monkeypatch.setattr(os, "read", lambda *_: pytest.fail("was read"))
    with pytest.raises(ImageError, match="5,368,709,120 of at most 104,857,600"):
        fetch(str(path), None, FetchLimits())


def test_the_limit_itself_is_allowed(tmp_path: Path) -> None:
    assert len(fetch(str(write(tmp_path / "a.jpg", b"x" * 1000)), None, LIMITS)) == 1000
    assert code_of(write(tmp_path / "b.jpg", b"x" * 1001)) is ImageErrorCode.TOO_MANY_BYTES


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_failing_disk_is_fetch_failed(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    path = write(tmp_path / "a.jpg")
    monkeypatch.setattr(os, "read", fail)
    assert code_of(path) is ImageErrorCode.FETCH_FAILED


def test_a_read_in_pieces_is_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jpg", b"0123456789")
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: read(fd, min(size, 3)))
    assert fetch(str(path), None, LIMITS) == b"0123456789"


# --- versions --------------------------------------------------------------------------------------------------------


def test_a_file_that_went_away_after_listing_is_not_found(tmp_path: Path) -> None:
    etag = stat_file(str(write(tmp_path / "a.jpg"))).etag
    (tmp_path / "a.jpg").unlink()
    assert code_of(tmp_path / "a.jpg", etag) is ImageErrorCode.NOT_FOUND


def test_a_file_that_was_replaced_after_listing_is_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", b"old")
    os.utime(path, ns=(0, 10**18))
    etag = stat_file(str(path)).etag
    assert fetch(str(path), etag, LIMITS) == b"old"
    os.replace(write(tmp_path / "b.jpg", b"new"), path)
    assert code_of(path, etag) is ImageErrorCode.CHANGED


def test_versions_tell_times_and_sizes_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", b"abc")
    seen = set()
    for size, mtime_ns in [(3, 10**18), (3, 10**18 + 1), (4, 10**18)]:
        os.truncate(path, size)
        os.utime(path, ns=(0, mtime_ns))
        seen.add(stat_file(str(path)).etag)
    assert len(seen) == 3


@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite"])
def test_a_file_that_is_written_while_it_is_read_is_changed(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jpg", b"0123456789")
    os.utime(path, ns=(0, 10**18))
    etag = stat_file(str(path)).etag
    read = os.read

    def read_and_change(descriptor: int, size: int) -> bytes:
        if change == "shrink":
            os.truncate(path, 4)
        data = read(descriptor, size)
        if change != "shrink":
            with open(path, "ab" if change == "grow" else "r+b") as file:
                file.write(b"more")
        return data

    monkeypatch.setattr(os, "read", read_and_change)
    assert code_of(path, etag) is ImageErrorCode.CHANGED


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NASTY_NAMES, ids=ascii)
def test_a_nasty_name_comes_back_with_its_own_bytes(name: str, tmp_path: Path) -> None:
    # As the name of a file and of a folder; every file holds its own path.
    below = Path("in", name[:80], name)
    for path in (tmp_path / name, tmp_path / below):
        write(path, os.fsencode(path))
    found = list(list_folder(str(tmp_path)))
    assert {path_from_uri(info.uri) for info in found} == {str(tmp_path / name), str(tmp_path / below)}
    for info in found:
        info.uri.encode("utf-8")  # what Parquet can hold
        assert fetch(info.uri, info.etag, LIMITS) == os.fsencode(path_from_uri(info.uri))


def test_only_names_that_are_not_utf8_become_file_uris() -> None:
    assert uri_from_path("/a b%20é.jpg") == "/a b%20é.jpg"
    assert uri_from_path(os.fsdecode(b"/a b\xff.jpg")) == "file:///a%20b%FF.jpg"


def test_an_unknown_kind_of_storage_fails_one_input_only() -> None:
    assert code_of("gopher://host/a.jpg") is ImageErrorCode.UNSUPPORTED_STORAGE
    with pytest.raises(InputError, match="hdfs://bucket/labels: a label store cannot be kept there; give a local"):
        open_directory("hdfs://bucket/labels")


# --- listing ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_listed_in_the_order_of_its_uris(tmp_path: Path) -> None:
    for name in ("a-b", "a/x", "a/y/z", "a.b", "a", "a!/x", "a0", "é", "z", "Z", "🐈/a", "\x01", "a\n/b", "a /c", "~"):
        path = tmp_path / name
        write(path / "in" if path.is_dir() else path)
    write(tmp_path / os.fsdecode(b"\xff") / "a")
    write(tmp_path / os.fsdecode(b"a\xff"))
    found = uris(list_folder(str(tmp_path)))
    assert len(found) == 17
    assert found == sorted(found)


def test_hidden_names_are_left_out(tmp_path: Path) -> None:
    for name in ("a.jpg", ".hidden.jpg", ".git/b.jpg", "c/.d/e.jpg", "c/f.jpg"):
        write(tmp_path / name)
    assert uris(list_folder(str(tmp_path))) == [f"{tmp_path}/a.jpg", f"{tmp_path}/c/f.jpg"]


def test_linked_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "o.jpg").parent
    root = write(tmp_path / "root" / "a" / "x.jpg").parent.parent
    write(root / "b" / "y.jpg")
    (root / "linked").symlink_to(outside)
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "over").symlink_to("../b")
    (root / "b" / "over").symlink_to("../a")
    (root / "self").symlink_to(".")
    found = [uri.removeprefix(f"{root}/") for uri in uris(list_folder(str(root)))]
    assert found == ["a/x.jpg", "b/y.jpg", "linked/o.jpg"]


def test_links_that_lead_nowhere_are_inputs_without_a_version(tmp_path: Path) -> None:
    write(tmp_path / "good.jpg")
    (tmp_path / "dangling.jpg").symlink_to("gone.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    found = {os.path.basename(info.uri): info for info in list_folder(str(tmp_path))}
    assert found.keys() == {"dangling.jpg", "good.jpg", "loop.jpg"}
    for name in ("dangling.jpg", "loop.jpg"):
        assert set(found[name][1:]) == {None}
        assert code_of(found[name].uri) is ImageErrorCode.NOT_FOUND


def test_a_folder_can_be_left_out_under_any_of_its_names(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg")
    write(tmp_path / "labels" / "samples" / "b.jpg")
    write(tmp_path / "labels2" / "c.jpg")
    (tmp_path / "link").symlink_to("labels")
    kept = [f"{tmp_path}/a.jpg", f"{tmp_path}/labels2/c.jpg"]
    assert uris(list_folder(str(tmp_path), leave_out=str(tmp_path / "labels"))) == kept
    assert uris(list_folder(str(tmp_path), leave_out=str(tmp_path / "link"))) == kept


def test_a_folder_that_cannot_be_listed_is_an_error(public_folder: Path) -> None:
    write(public_folder / "a" / "x.jpg")
    (public_folder / "b").mkdir(mode=0)
    refused = as_nobody(lambda: list(list_folder(str(public_folder))))
    assert isinstance(refused, InputError)
    assert str(refused) == f"1 folder of the input cannot be listed ({public_folder}/b: Permission denied)"


def test_a_path_that_cannot_be_looked_at_has_no_version(public_folder: Path) -> None:
    write(public_folder / "closed" / "x.jpg").parent.chmod(0o600)
    path = f"{public_folder}/closed/x.jpg"
    assert as_nobody(lambda: stat_file(path)) == FileInfo(path, None, None, None)
    assert stat_file("null\0") == FileInfo("null\0", None, None, None)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_name_is_created_once(tmp_path: Path) -> None:
    directory = LocalDirectory(str(tmp_path))
    assert not directory.exists("a/b.txt")
    assert directory.create("a/b.txt", b"first")
    assert not directory.create("a/b.txt", b"second")
    assert directory.exists("a/b.txt")
    assert directory.read("a/b.txt") == b"first"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_of_many_threads_exactly_one_creates(tmp_path: Path) -> None:
    directory = LocalDirectory(str(tmp_path))
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        return directory.create("part", bytes([number]) * 100_000)

    for _ in range(10):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))
        assert won.count(True) == 1
        assert directory.read("part") == bytes([won.index(True)]) * 100_000
        assert os.listdir(tmp_path) == ["part"]
        directory.remove("part")


def test_of_many_processes_exactly_one_creates(tmp_path: Path) -> None:
    children = {}
    for number in range(8):
        if (child := os.fork()) == 0:
            created = LocalDirectory(str(tmp_path)).create("part", bytes([number]) * 100_000)
            os._exit(0 if created else 1)
        children[child] = number
    winners = [number for child, number in children.items() if os.waitpid(child, 0)[1] == 0]
    assert len(winners) == 1
    assert (tmp_path / "part").read_bytes() == bytes(winners) * 100_000
    assert os.listdir(tmp_path) == ["part"]


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_crash_before_the_name_is_there_leaves_no_name(step: str, tmp_path: Path) -> None:
    if (child := os.fork()) == 0:
        setattr(os, step, lambda *_: os._exit(9))
        LocalDirectory(str(tmp_path)).create("part", b"content")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    directory = LocalDirectory(str(tmp_path))
    assert not directory.exists("part")
    assert all(name.startswith(".part.") for name in directory.entries())
    assert directory.create("part", b"again")
    assert directory.read("part") == b"again"


def test_content_and_name_are_on_disk_before_create_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def fsync(descriptor: int, real: Callable[[int], None] = os.fsync) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "content")
        real(descriptor)

    def link(partial: str, path: str, real: Callable[[str, str], None] = os.link) -> None:
        steps.append("name")
        real(partial, path)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    LocalDirectory(str(tmp_path)).create("part", b"content")
    assert steps == ["content", "name", "folder"]


def test_replace_writes_over_an_older_file(tmp_path: Path) -> None:
    directory = LocalDirectory(str(tmp_path))
    directory.replace("a/lease.json", b"old")
    directory.replace("a/lease.json", b"new")
    assert directory.read("a/lease.json") == b"new"
    assert os.listdir(tmp_path / "a") == ["lease.json"]


@pytest.mark.parametrize("write_with", ["create", "replace"])
def test_a_full_disk_is_a_storage_error_and_leaves_nothing(
    write_with: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    directory = LocalDirectory(str(tmp_path))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"part: cannot be written: No space left on device; what is written") as e:
        getattr(directory, write_with)("part", b"content")
    assert e.value.exit_code == 3
    assert os.listdir(tmp_path) == []


def test_a_failed_replace_keeps_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = LocalDirectory(str(tmp_path))
    directory.replace("a", b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match="Read-only file system"):
        directory.replace("a", b"new")
    assert directory.read("a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_that_may_not_be_written_is_a_storage_error(public_folder: Path) -> None:
    refused = as_nobody(lambda: LocalDirectory(str(public_folder)).create("part", b"content"))
    assert isinstance(refused, StorageError)
    assert str(refused).startswith(f"{public_folder}/part: cannot be written: Permission denied")


def test_entries_are_the_names_of_one_folder(tmp_path: Path) -> None:
    directory = LocalDirectory(str(tmp_path))
    for name in ("predictions/0001-000000.parquet", "predictions/0010-000000.parquet", "plans/0001.json", "store.json"):
        directory.create(name, b"")
    assert sorted(directory.entries()) == ["plans", "predictions", "store.json"]
    assert sorted(directory.entries("predictions")) == ["0001-000000.parquet", "0010-000000.parquet"]
    assert list(directory.entries("predictions", starts_with="0001-")) == ["0001-000000.parquet"]
    assert list(directory.entries("nowhere")) == []


def test_files_that_are_not_there(tmp_path: Path) -> None:
    directory = LocalDirectory(str(tmp_path / "new"))
    directory.remove("a")
    with pytest.raises(FileNotFoundError):
        directory.read("a")
    with pytest.raises(FileNotFoundError):
        directory.open("a")
