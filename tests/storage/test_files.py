"""Paths are those that the system opens, ``file://`` URIs are of this machine, versions are compared by their value."""

from __future__ import annotations

import os
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.errors import ImageError, ImageErrorCode, InputError
from imgcls_ray.storage import FetchLimits, fetch, open_directory
from imgcls_ray.storage.files import (
    FileInfo,
    absolute_path,
    check_address,
    host_of_file,
    opaque_etag,
    path_from_uri,
    stat_file,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders, and links between them, each with a file that tells where it is."""
    root = tmp_path.resolve()
    for folder in ("a", "a/b", "a/b/c", "d"):
        (root / folder).mkdir()
    (root / "d" / "to_c").symlink_to("../a/b/c")
    (root / "a" / "to_d").symlink_to(root / "d")
    (root / "loop").symlink_to("loop")
    for name in ("", "a", "a/b", "a/b/c", "d"):
        (root / name / "x.jpg").write_text(name)
    monkeypatch.chdir(root)
    return root


def test_two_dots_behind_a_link_lead_where_the_system_goes(tree: Path) -> None:
    assert absolute_path("d/to_c/../x.jpg") == f"{tree}/a/b/x.jpg"
    assert absolute_path(f"{tree}/a/to_d/to_c/../../x.jpg") == f"{tree}/a/x.jpg"
    assert absolute_path("d/../d/./to_c//x.jpg") == f"{tree}/d/to_c/x.jpg"  # a link that stays is a name like others
    assert absolute_path("/../x") == "/x"
    assert absolute_path("//x/./y/") == "/x/y"


def test_two_dots_behind_what_is_no_folder_lead_nowhere(tree: Path) -> None:
    for path in ("gone/../x.jpg", "x.jpg/../x.jpg", "loop/../x.jpg", "null\0/../x.jpg"):
        assert absolute_path(path).endswith("/../x.jpg"), path
        assert stat_file(absolute_path(path)).size is None, path
    assert absolute_path("gone/../../a/x.jpg") == f"{tree}/gone/../../a/x.jpg"


def test_any_path_opens_the_same_file_as_its_absolute_one(tree: Path) -> None:
    rng = random.Random(0)
    names = ["a", "b", "c", "d", "to_c", "to_d", "..", "..", ".", "", "loop", "gone", "x.jpg"]
    num_files = 0
    for _ in range(3000):
        path = "/".join([*rng.choices(names, k=rng.randint(0, 6)), "x.jpg"]).lstrip("/")
        whole = absolute_path(path)
        assert os.path.isabs(whole)
        assert os.path.exists(path) == os.path.exists(whole), path
        if os.path.isfile(path):
            num_files += 1
            assert os.path.samefile(path, whole), path
            assert ".." not in whole.split("/")
    assert num_files > 100


def test_a_file_uri_may_name_this_machine(tmp_path: Path) -> None:
    (tmp_path / "a b.jpg").write_bytes(b"content")
    for start in ("file://", "file://localhost", "FILE://LocalHost"):
        assert path_from_uri(f"{start}{tmp_path}/a%20b.jpg") == f"{tmp_path}/a b.jpg"
        assert fetch(f"{start}{tmp_path}/a%20b.jpg", None, FetchLimits()) == b"content"


def test_a_file_of_another_machine_is_refused() -> None:
    assert host_of_file("file://nas/photos") == "nas"
    with pytest.raises(InputError, match=r"^file://nas/photos: names a file of the host 'nas'; write file:///PATH for"):
        path_from_uri("file://nas/photos")
    with pytest.raises(ImageError) as caught:
        fetch("file://nas/photos/a.jpg", None, FetchLimits())
    assert caught.value.code is ImageErrorCode.UNSUPPORTED_STORAGE


def test_a_file_of_a_year_with_five_digits_has_a_version_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    status = SimpleNamespace(st_mtime_ns=3 * 10**20, st_size=1)
    monkeypatch.setattr(os, "stat", lambda _: status)
    assert stat_file("/a.jpg") == FileInfo("/a.jpg", 1, f"{3 * 10**20:x}-1", None)


@pytest.mark.parametrize("text", ['"abc"', 'W/"abc"', "abc", 'W/"abc', ' "abc" '])
def test_a_version_is_the_value_of_an_etag(text: str) -> None:
    assert opaque_etag(text) == "abc"


@pytest.mark.parametrize(
    ("mistyped", "answer"),
    [
        ("s3:/bucket/x", "has one slash; write s3://bucket/x (a path of that name is ./s3:/bucket/x)"),
        ("s3:bucket/x", "has no slashes; write s3://bucket/x"),
        ("s3//bucket/x", "has no colon; write s3://bucket/x"),
        (r"S3:\bucket\x", "has backslashes; write s3://bucket/x"),
        (r"s3:\\bucket\x", "has backslashes; write s3://bucket/x"),
        ("https:/host/x.jpg", "has one slash; write https://host/x.jpg"),
        ("file:/tmp/x", "has one slash; write file:///tmp/x"),
        ("hdfs:/x", "hdfs:// is not a kind of storage that can be used; give a path or s3://BUCKET/PREFIX"),
    ],
)
def test_a_mistyped_address_is_no_path(mistyped: str, answer: str) -> None:
    with pytest.raises(InputError) as caught:
        open_directory(mistyped)
    assert str(caught.value).startswith(f"{mistyped}: {answer}")


@pytest.mark.parametrize(
    "path",
    ["s3://b/x", "s3:///b", "./s3:/x", "s3", "s3/x", "s30:/x", "a//b", "http.d/x", "C:\\x", "file:///x", "/s3:/x"],
)
def test_other_paths_and_addresses_are_not_taken_for_mistyped_ones(path: str) -> None:
    check_address(path)
