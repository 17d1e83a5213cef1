"""Inputs are read ahead of the work: in the plan's order, and never more than a bounded number of them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.storage import FetchLimits
from imgcls_ray.storage.files import stat_file
from imgcls_ray.workers import fetching
from imgcls_ray.workers.fetching import fetch_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

LIMITS = FetchLimits(max_bytes=1000)


def rows(uris: list[str], size: int | None = 100) -> pa.Table:
    return pa.table(
        {
            "uri": pa.array(uris, pa.string()),
            "etag": pa.array([None] * len(uris), pa.string()),
            "size": pa.array([size] * len(uris), pa.int64()),
        }
    )


class Storage:
    """Answers every input with its name, and counts what was asked for before it was used."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_fetched = 0
        self._lock = threading.Lock()
        monkeypatch.setattr(fetching, "fetch_input", self.fetch)

    def fetch(self, uri: str, etag: str | None, limits: FetchLimits) -> bytes:
        with self._lock:
            self.num_fetched += 1
        return uri.encode()

    def most_ahead(self, contents: Iterator[object]) -> int:
        """The largest number of inputs that were read and not used yet."""
        most = 0
        for num_used, _ in enumerate(contents):
            time.sleep(0.001)  # let readers go as far ahead as they will
            most = max(most, self.num_fetched - num_used)
        return most


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, 500])
def test_files_come_in_the_plans_order(count: int, tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    for i in range(count):
        (tmp_path / f"{i}.jpg").write_bytes(b"%d" % i)
    table = rows([f"{tmp_path}/{i}.jpg" for i in range(count)])
    assert list(fetch_inputs(table, LIMITS, executor)) == [b"%d" % i for i in range(count)]


def test_a_failure_comes_without_the_way_it_came(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    [error] = fetch_inputs(fetching.any_version([f"{tmp_path}/none.jpg"]), FetchLimits(), executor)
    assert isinstance(error, ImageError)
    assert error.code is ImageErrorCode.NOT_FOUND
    # What its frames hold would live as long as the row.
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


def test_slow_and_failing_inputs_keep_their_places(
    monkeypatch: pytest.MonkeyPatch, executor: ThreadPoolExecutor
) -> None:
    def fetch(uri: str, etag: str | None, limits: FetchLimits) -> bytes:
        number = int(uri.rpartition("/")[2])
        time.sleep(0.02 * (number % 7 == 0))
        if number % 5 == 0:
            raise ImageError(ImageErrorCode.FETCH_FAILED, uri)
        return uri.encode()

    monkeypatch.setattr(fetching, "fetch_input", fetch)
    uris = [f"http://h/{i}" if i % 3 else f"/in/{i}" for i in range(200)]
    found = list(fetch_inputs(rows(uris), LIMITS, executor))
    assert [item.detail if isinstance(item, ImageError) else item for item in found] == [
        uri if isinstance(item, ImageError) else uri.encode() for uri, item in zip(uris, found, strict=True)
    ]
    assert [isinstance(item, ImageError) for item in found] == [i % 5 == 0 for i in range(200)]


def test_the_planned_version_is_asked_for(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")
    etags = [stat_file(str(path)).etag, "older", None]
    table = pa.table({"uri": [str(path)] * 3, "etag": pa.array(etags, pa.string()), "size": [1, 1, 1]})
    good, changed, any_version = fetch_inputs(table, LIMITS, executor)
    assert good == any_version == b"x"
    assert isinstance(changed, ImageError)
    assert changed.code is ImageErrorCode.CHANGED


@pytest.mark.parametrize("place", ["/in/{}", "http://h/{}"])
def test_a_bounded_number_is_read_ahead(
    place: str, monkeypatch: pytest.MonkeyPatch, executor: ThreadPoolExecutor
) -> None:
    storage = Storage(monkeypatch)
    contents = fetch_inputs(rows([place.format(i) for i in range(500)]), LIMITS, executor)
    assert 16 <= storage.most_ahead(contents) <= 64 + 8
    assert storage.num_fetched == 500


@pytest.mark.parametrize(("size", "most"), [(10 * 2**20, 8), (100 * 2**20, 2), (10**12, 2), (None, 64 + 8)])
def test_a_bounded_number_of_bytes_is_read_ahead(
    size: int | None, most: int, monkeypatch: pytest.MonkeyPatch, executor: ThreadPoolExecutor
) -> None:
    storage = Storage(monkeypatch)
    contents = fetch_inputs(rows([f"/in/{i}" for i in range(200)], size), LIMITS, executor)
    assert 1 <= storage.most_ahead(contents) <= most
    assert storage.num_fetched == 200


def test_one_slow_address_holds_up_no_other(monkeypatch: pytest.MonkeyPatch, executor: ThreadPoolExecutor) -> None:
    others = threading.Semaphore(0)

    def fetch(uri: str, etag: str | None, limits: FetchLimits) -> bytes:
        if uri == "http://h/0":
            for _ in range(59):
                assert others.acquire(timeout=5), "others wait for the first"
        else:
            others.release()
        return uri.encode()

    monkeypatch.setattr(fetching, "fetch_input", fetch)
    uris = [f"http://h/{i}" for i in range(60)]
    assert list(fetch_inputs(rows(uris), LIMITS, executor)) == [uri.encode() for uri in uris]


def test_a_mistake_of_ours_is_not_taken_for_a_bad_input(
    monkeypatch: pytest.MonkeyPatch, executor: ThreadPoolExecutor
) -> None:
    def fetch(uri: str, etag: str | None, limits: FetchLimits) -> bytes:
        raise TypeError("a bug")

    monkeypatch.setattr(fetching, "fetch_input", fetch)
    with pytest.raises(TypeError, match="a bug"):
        list(fetch_inputs(rows(["/a"]), LIMITS, executor))
