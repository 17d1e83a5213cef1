"""Pages of Parquet are bounded before Arrow unpacks them."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.packed import parquet_pages, parquets
from imgcls_ray.packed.parquet_pages import ColumnFile, page_header
from imgcls_ray.packed.parquets import GroupScan
from imgcls_ray.storage import FetchLimits
from imgcls_ray.storage.files import FileInfo

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = FetchLimits(max_bytes=100_000)


def rows_of(path: Path, num_rows: int, group: int = 0) -> list[bytes | ImageError]:
    return GroupScan(FileInfo(str(path), path.stat().st_size, None, None), group, LIMITS).take(0, range(num_rows))


@pytest.mark.parametrize("is_struct", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"compression": "none", "use_dictionary": False, "data_page_size": 500},
        {"compression": "zstd", "use_dictionary": True, "data_page_version": "2.0", "data_page_size": 500},
        {"compression": "snappy", "use_dictionary": False, "write_page_index": True, "write_page_checksum": True},
        {"compression": "gzip", "column_encoding": "DELTA_BYTE_ARRAY", "use_dictionary": False, "write_batch_size": 3},
    ],
)
def test_every_page_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], is_struct: bool
) -> None:
    """Header by header, one comes to the end of the column; and the images are those that were written."""
    images = [os.urandom(random.Random(i).randrange(300)) * (i % 3) for i in range(400)]
    column = [{"bytes": image, "path": "x"} for image in images] if is_struct else images
    if encoding := options.get("column_encoding"):
        options = {**options, "column_encoding": {"image.bytes" if is_struct else "image": encoding}}
    table = pa.table({"id": range(400), "image": column, "label": range(400)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=200, **options)
    opened: list[tuple[ColumnFile, int]] = []

    def spied(*args: Any, end: int, **named: Any) -> ColumnFile:
        opened.append((ColumnFile(*args, end=end, **named), end))
        return opened[-1][0]

    monkeypatch.setattr(parquets, "ColumnFile", spied)
    # Every second header lies across the end of what is read at once.
    monkeypatch.setattr(parquets, "_REQUEST_BYTES", 700)
    assert [*rows_of(tmp_path / "a.parquet", 200, 0), *rows_of(tmp_path / "a.parquet", 200, 1)] == images
    assert len(opened) == 2
    assert all(file.next_page == end for file, end in opened)


def test_a_page_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_pages, "_MAX_PAGE_BYTES", 2**20)
    pq.write_table(pa.table({"image": [bytes(8 * 2**20), b"x"]}), tmp_path / "a.parquet", compression="zstd")
    for result in rows_of(tmp_path / "a.parquet", 2):
        assert isinstance(result, ImageError)
        assert result.code == ImageErrorCode.TOO_MANY_BYTES
        assert result.detail.startswith("its page has 8,38")


def test_a_large_page_of_images_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_pages, "_MAX_PAGE_BYTES", 2**20)
    images = [os.urandom(90_000) for _ in range(30)]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet", use_dictionary=False, compression="zstd")
    assert rows_of(tmp_path / "a.parquet", 30) == images


@pytest.mark.parametrize("packed", [-1, 2**31 - 1])
def test_a_page_that_claims_to_be_larger_than_the_file_is_corrupt(tmp_path: Path, packed: int) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [b"x" * 100]}), path, use_dictionary=False, compression="none")
    data = bytearray(path.read_bytes())
    number = (packed << 1) ^ (packed >> 31)
    digits = [number >> shift & 127 | 128 for shift in range(0, 35, 7)]
    data[4:15] = bytes([0x15, 0, 0x15, 2, 0x15, *digits[:-1], digits[-1] & 127, 0])
    path.write_bytes(data)
    [result] = rows_of(path, 1)
    assert isinstance(result, ImageError)
    assert (result.code, result.detail) == (ImageErrorCode.CORRUPT, "a page is larger than the file")


def test_what_is_no_header_is_told_in_bounded_time() -> None:
    source = random.Random(0)
    for _ in range(3000):
        with suppress(ValueError, IndexError):
            page_header(source.randbytes(source.randrange(200)))
    for endless in (
        b"\x19\xfc" + b"\xff" * 9,
        b"\x1c" * 1000,
        b"\x19\xf1" + b"\xff" * 8 + b"\x7f",
        b"\x15" + b"\xff" * 50,
    ):
        with pytest.raises((ValueError, IndexError)):
            page_header(endless)
