"""Members of packed files are read in few requests, and come in the plan's order like files do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.inputs.tables import table_of
from imgcls_ray.packed import reading
from imgcls_ray.storage import FetchLimits, fetch_range
from imgcls_ray.storage.files import FileInfo, stat_file
from imgcls_ray.workers.fetching import fetch_inputs

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

    import pytest

    from imgcls_ray.images.crops import Crop

LIMITS = FetchLimits(max_bytes=1000)


def member(path: Path, name: str, locator: str, *, etag: str | None = None) -> FileInfo:
    return FileInfo(f"{path}#{name}", 10, etag or stat_file(str(path)).etag, None, str(path), locator)


def codes(results: list[bytes | Crop | ImageError]) -> list[bytes | Crop | ImageErrorCode]:
    return [result.code if isinstance(result, ImageError) else result for result in results]


def test_members_come_in_the_plans_order_in_one_request(
    tmp_path: Path, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "a.tar"
    packed.write_bytes(b"".join(b"%03d" % number for number in range(300)))
    requests = []

    def count(*asked: Any) -> bytes:
        requests.append(asked)
        return fetch_range(*asked)

    monkeypatch.setattr(reading, "fetch_range", count)
    rows = table_of([member(packed, f"{number}", f"tar:{3 * number}:3") for number in reversed(range(300))])
    assert list(fetch_inputs(rows, LIMITS, executor)) == [b"%03d" % number for number in reversed(range(300))]
    assert len(requests) == 1


def test_members_between_files_keep_their_places(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    (tmp_path / "b.jpg").write_bytes(b"loose")
    (tmp_path / "c.tar").write_bytes(b"abcdefghij")
    loose = stat_file(f"{tmp_path}/b.jpg")
    rows = table_of(
        [
            member(tmp_path / "a.tar", "x", "tar:2:3"),
            loose,
            member(tmp_path / "c.tar", "y", "tar:0:1"),
            member(tmp_path / "c.tar", "z", "tar:5:2"),
            loose,
        ]
    )
    assert list(fetch_inputs(rows, LIMITS, executor)) == [b"234", b"loose", b"a", b"fg", b"loose"]


def test_each_member_fails_alone(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    packed = tmp_path / "a.tar"
    packed.write_bytes(b"0123456789")
    rows = table_of(
        [
            member(packed, "good", "tar:0:4"),
            member(packed, "cut", "tar:8:4"),
            member(packed, "behind the end", "tar:900:4"),
            member(packed, "large", "tar:0:1001"),
            member(packed, "broken", "broken:corrupt:its header"),
            member(packed, "empty", "tar:4:0"),
            member(packed, "changed", "tar:0:4", etag="old"),
            member(tmp_path / "gone.tar", "gone", "tar:0:4"),
        ]
    )
    assert codes(list(fetch_inputs(rows, LIMITS, executor))) == [
        b"0123",
        ImageErrorCode.TRUNCATED,
        ImageErrorCode.TRUNCATED,
        ImageErrorCode.TOO_MANY_BYTES,
        ImageErrorCode.CORRUPT,
        b"",
        ImageErrorCode.CHANGED,
        ImageErrorCode.NOT_FOUND,
    ]
