"""A random sample is uniform over all inputs, and follows from the seed and the names alone."""

from __future__ import annotations

import random
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from imgcls_ray.inputs import sampling
from imgcls_ray.inputs.sampling import Sample, random_numbers, sampled
from imgcls_ray.inputs.sorting import ScratchTables
from imgcls_ray.inputs.tables import FileTables, table_of
from imgcls_ray.storage.files import FileInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

URIS = [f"s3://bucket/photos/{i // 100:02d}/{i:06d}.jpg" for i in range(2000)]


def files(uris: list[str] = URIS, *, rows: int = 8192) -> FileTables:
    def tables() -> Iterator[pa.Table]:
        for start in range(0, len(uris), rows):
            yield table_of([FileInfo(uri, 1, None, None) for uri in uris[start : start + rows]])

    return FileTables(lambda _: tables())


def drawn(size: int, seed: int = 0, *, rows: int = 8192) -> list[str]:
    return [file.uri for file in sampled(files(rows=rows), Sample(size, seed))]


def test_a_sample_has_its_size_in_the_order_of_the_listing() -> None:
    found = drawn(100)
    assert len(set(found)) == 100
    assert found == sorted(found)
    assert set(found) <= set(URIS)


def test_of_fewer_inputs_all_are_taken_and_all_are_counted() -> None:
    sample = Sample(5000, 0)
    assert [file.uri for file in sampled(files(), sample)] == URIS
    assert sample.num_seen == 2000
    assert list(sampled(files([]), Sample(3, 0))) == []


@pytest.mark.parametrize("rows", [1, 7, 500])
def test_pieces_of_the_listing_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = drawn(100, 3)
    monkeypatch.setattr(sampling, "_NUMBERS_AHEAD", 5)
    assert drawn(100, 3, rows=rows) == expected


def test_another_seed_draws_others_and_a_larger_sample_has_the_smaller_one() -> None:
    assert drawn(100, 1) == drawn(100, 1)
    assert len(set(drawn(100, 1)) & set(drawn(100, 2))) < 30
    assert set(drawn(100, 1)) < set(drawn(300, 1))
    assert drawn(50, -1) != drawn(50, 1)


def test_one_input_more_changes_one_of_the_sample_at_most() -> None:
    before = set(drawn(100))
    after = {file.uri for file in sampled(files([*URIS, "s3://bucket/photos/zz.jpg"]), Sample(100, 0))}
    assert len(before - after) <= 1


def test_every_input_is_as_likely_as_any_other() -> None:
    """Over many seeds, the number of times that each is drawn is binomial: mean 100, standard deviation 9.5."""
    counts = np.zeros(400)
    numbers = {uri: place for place, uri in enumerate(URIS[:400])}
    for seed in range(1000):
        for file in sampled(files(URIS[:400]), Sample(40, seed)):
            counts[numbers[file.uri]] += 1
    assert counts.sum() == 40_000
    chi_square = ((counts - 100) ** 2 / (100 * 0.9)).sum()
    # 399 degrees of freedom: within five standard deviations.
    assert abs(chi_square - 399) < 5 * np.sqrt(2 * 399)


def test_random_numbers_of_names_that_differ_little_are_spread_evenly() -> None:
    numbers = random_numbers(pa.array(URIS), 0)
    counts, _ = np.histogram(numbers.astype(np.float64), bins=20, range=(0, 2.0**64))
    assert len(set(numbers.tolist())) == 2000
    assert ((counts - 100) ** 2 / 100).sum() < 60


def test_the_sample_is_the_same_in_every_version() -> None:
    """Otherwise a store would be continued with another sample. Made by ``random_numbers`` of the first version."""
    assert [int(number) for number in random_numbers(pa.array(["a", "b/é.jpg"]), 7)] == EXPECTED


def test_only_what_may_be_drawn_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long listing, a sample of a few keeps little: about size * (1 + log(inputs / size)) rows."""
    monkeypatch.setattr(sampling, "_NUMBERS_AHEAD", 10)
    kept: list[int] = []
    add = ScratchTables.add

    def add_and_tell(tables: ScratchTables, table: pa.Table) -> None:
        kept.append(table.num_rows)
        add(tables, table)

    monkeypatch.setattr(ScratchTables, "add", add_and_tell)
    chance = random.Random(0)
    uris = sorted(f"{chance.random()}" for _ in range(20_000))
    assert len(list(sampled(files(uris, rows=100), Sample(50, 0)))) == 50
    assert 50 <= sum(kept) < 1500


EXPECTED = [7675687865816633787, 16513994369384343625]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 1.0])
def test_a_large_sample_takes_ten_bytes_an_input(share: float) -> None:
    count = 2_000_000
    smallest = sampling._Smallest(round(share * count))
    numbers = np.random.default_rng(0).integers(0, 2**64, count, np.uint64)
    tracemalloc.start()
    try:
        for start in range(0, count, 10_000):
            smallest.add(numbers[start : start + 10_000])
        largest = smallest.largest()
        assert tracemalloc.get_traced_memory()[1] < 10 * count
    finally:
        tracemalloc.stop()
    assert (numbers <= largest).sum() == round(share * count) or share == 1.0


def test_a_large_sample_is_not_looked_through_for_every_few_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_NUMBERS_AHEAD", 10)
    times: list[int] = []
    largest = sampling._Smallest.largest

    def counted(kept: sampling._Smallest) -> np.uint64:
        times.append(1)
        return largest(kept)

    monkeypatch.setattr(sampling._Smallest, "largest", counted)
    smallest = sampling._Smallest(10_000)
    for _ in range(10_000):
        smallest.add(np.random.default_rng(len(times)).integers(0, 2**64, 10, np.uint64))
    assert 1 < len(times) < 30
