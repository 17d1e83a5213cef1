"""The arithmetic and the inputs of the benchmarks; what they measure is theirs alone."""

from __future__ import annotations

import io
import math
import os
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.common import Part, read_parts, steady_rate
from benchmarks.make_images import draw_photograph

if TYPE_CHECKING:
    from pathlib import Path


def parts_every_second(num_parts: int, num_rows: int) -> list[Part]:
    return [Part(100.0 + i, num_rows, f"0001-{i:06d}.parquet") for i in range(num_parts)]


def test_the_steady_rate_leaves_out_the_first_thousand_images() -> None:
    slow_start = [Part(0.0, 1000, "0001-000000.parquet")]
    assert steady_rate(slow_start + parts_every_second(20, 250)) == pytest.approx(20 * 250 / 119)


def test_the_steady_rate_of_a_small_job_leaves_out_a_fifth() -> None:
    assert steady_rate(parts_every_second(10, 30)) == pytest.approx(30)


def test_a_job_of_one_part_has_no_steady_rate() -> None:
    assert math.isnan(steady_rate(parts_every_second(1, 100)))


def test_parts_come_by_the_time_they_were_written_and_unfinished_ones_do_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "predictions"
    folder.mkdir()
    for name, num_rows, seconds in (("0001-000000", 3, 20), ("0001-000001", 2, 10), (".0001-000002", 9, 5)):
        pq.write_table(pa.table({"image_id": range(num_rows)}), folder / f"{name}.parquet")
        os.utime(folder / f"{name}.parquet", (seconds, seconds))
    assert [(part.time, part.num_rows) for part in read_parts(tmp_path)] == [(10, 2), (20, 3)]


def test_drawn_photographs_are_as_large_as_real_ones() -> None:
    sizes = []
    for seed in range(8):
        buffer = io.BytesIO()
        draw_photograph(seed).save(buffer, "JPEG", quality=95)
        sizes.append(buffer.tell())
    assert 90_000 < sum(sizes) / len(sizes) < 130_000


def test_drawn_photographs_are_repeatable_and_distinct() -> None:
    assert draw_photograph(7).tobytes() == draw_photograph(7).tobytes()
    assert draw_photograph(7).tobytes() != draw_photograph(8).tobytes()
