"""Equal and nearly equal pictures are found by their hashes, all of them, without looking at every pair."""

from __future__ import annotations

import tracemalloc
from time import process_time

import numpy as np
import pytest

from imgcls_ray.datasets import duplicates
from imgcls_ray.datasets.duplicates import Groups, equal_groups, hashes_array, near_pairs, near_pictures
from imgcls_ray.images.measure import NUM_COPIES, NUM_VIEWS
from tests.timing import assert_within


def random_hashes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16)).astype(np.uint8)


def with_neighbours(count: int, max_bits: int, seed: int = 0) -> np.ndarray:
    """Random hashes, half of them one of the other half with up to ``max_bits + 1`` bits turned, in any order."""
    rng = np.random.default_rng(seed)
    strangers = random_hashes(count // 2, seed)
    bits = np.unpackbits(strangers, axis=1)
    for row in bits:
        row[rng.choice(128, rng.integers(0, max_bits + 2), replace=False)] ^= 1
    return rng.permutation(np.concatenate([strangers, np.packbits(bits, axis=1)]))


def by_brute_force(hashes: np.ndarray, max_bits: int) -> np.ndarray:
    words = hashes.view(np.uint64)
    distances = np.bitwise_count(words[:, None] ^ words[None]).sum(axis=2)
    return np.argwhere(np.triu(distances <= max_bits, 1))


def across(splits: np.ndarray) -> Groups:
    return Groups(splits, ~np.eye(3, dtype=bool))


@pytest.mark.parametrize("max_bits", range(8))
def test_every_pair_of_at_most_seven_bits_is_found_and_no_other(max_bits: int) -> None:
    hashes = with_neighbours(600, max_bits)
    expected = by_brute_force(hashes, max_bits)
    assert len(expected) > 30
    np.testing.assert_array_equal(near_pairs(hashes, max_bits).pairs, expected)


@pytest.mark.parametrize("max_bits", range(4))
def test_among_millions_every_pair_of_at_most_three_bits_is_found(
    monkeypatch: pytest.MonkeyPatch, max_bits: int
) -> None:
    monkeypatch.setattr(duplicates, "_MANY", 100)
    hashes = with_neighbours(600, max_bits)
    np.testing.assert_array_equal(near_pairs(hashes, max_bits).pairs, by_brute_force(hashes, max_bits))


def test_all_pairs_of_a_series_are_found() -> None:
    hashes = np.repeat(random_hashes(3), 40, axis=0)
    np.testing.assert_array_equal(near_pairs(hashes, 0).pairs, by_brute_force(hashes, 0))


def test_pairs_that_are_compared_in_several_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = with_neighbours(600, 6)
    expected = near_pairs(hashes, 6).pairs
    monkeypatch.setattr(duplicates, "_PAIRS_AT_ONCE", 7)
    np.testing.assert_array_equal(near_pairs(hashes, 6).pairs, expected)


def test_pairs_are_sorted_and_unique_with_the_lower_place_first() -> None:
    pairs = near_pairs(np.repeat(random_hashes(50), 4, axis=0)[::-1].copy(), 7).pairs
    assert pairs.dtype == np.int64
    assert (pairs[:, 0] < pairs[:, 1]).all()
    found = [tuple(pair) for pair in pairs.tolist()]
    assert found == sorted(set(found))


@pytest.mark.parametrize("count", [0, 1])
def test_of_less_than_two_pictures_there_is_no_pair(count: int) -> None:
    assert near_pairs(random_hashes(count), 7).pairs.shape == (0, 2)


def test_one_picture_many_times_is_not_compared_with_all_of_itself() -> None:
    def find() -> None:
        assert 20_000 <= len(near_pairs(np.zeros((20_000, 16), np.uint8), 7).pairs) <= 20_000 * 16

    assert_within(10, find, process_time)


def test_strangers_cost_little_time_and_memory() -> None:
    hashes = random_hashes(200_000)
    tracemalloc.start()

    def find() -> None:
        assert len(near_pairs(hashes, 7).pairs) == 0

    assert_within(10, find, process_time)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * 2**20


@pytest.mark.parametrize("max_bits", [0, 6])
def test_pairs_of_two_splits_are_found_however_many_frames_are_between_them(max_bits: int) -> None:
    # A burst of 700 frames, of which two are of another split.
    hashes = np.concatenate([np.repeat(random_hashes(1), 700, axis=0), with_neighbours(200, max_bits, seed=1)])
    splits = np.random.default_rng(2).integers(0, 3, len(hashes))
    splits[:700] = 0
    splits[[5, 690]] = 1
    expected = by_brute_force(hashes, max_bits)
    expected = expected[splits[expected[:, 0]] != splits[expected[:, 1]]]
    near = near_pairs(hashes, max_bits, across(splits))
    np.testing.assert_array_equal(near.pairs, expected)
    assert not near.may_miss.any()
    # Within the split they are compared with their neighbours only, which is told.
    assert near_pairs(hashes, max_bits).may_miss.sum() == 700


def test_pictures_that_are_not_compared_with_all_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.concatenate([np.zeros((600, 16), np.uint8), random_hashes(20)])
    splits = np.arange(len(hashes)) % 2
    monkeypatch.setattr(duplicates, "_MAX_OF_TWO", 1000)
    assert near_pairs(hashes, 6, across(splits)).may_miss.tolist() == [True] * 600 + [False] * 20
    monkeypatch.setattr(duplicates, "_MAX_PAIRS", 100)
    assert near_pairs(hashes[:40], 6, across(splits[:40])).may_miss.all()


def test_the_number_of_pairs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_MAX_PAIRS", 100)
    assert len(near_pairs(np.zeros((500, 16), np.uint8), 7).pairs) == 100


def test_equal_keys_are_grouped_by_their_places() -> None:
    groups = [group.tolist() for group in equal_groups(np.array([7, 3, 7, 5, 3, 7]))]
    assert groups == [[1, 4], [0, 2, 5]]


def test_keys_of_bytes_that_differ_in_their_last_nulls_are_not_equal() -> None:
    keys = np.array([b"a" + bytes(15), b"a" * 16, b"a" + bytes(15)], dtype="V16")
    assert [group.tolist() for group in equal_groups(keys)] == [[0, 2]]


@pytest.mark.parametrize("keys", [[], [1], [1, 2, 3]])
def test_without_equal_keys_there_is_no_group(keys: list[int]) -> None:
    assert list(equal_groups(np.array(keys, np.int64))) == []


@pytest.mark.parametrize("is_across", [True, False])
def test_a_picture_is_near_what_it_looks_like_or_a_view_of_that(is_across: bool) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (60, 1 + NUM_VIEWS, 16)).astype(np.uint8)
    splits = np.array([0, 1] * 30) if is_across else np.zeros(60, np.int64)
    expected = []
    for view in range(1 + NUM_VIEWS):
        one, two = 2 * view, 2 * view + 1
        # What one shows whole is a view of the other, whichever comes first; of the last two, the same part is.
        if view <= NUM_COPIES:
            hashes[one, 0 if view % 2 else view] = hashes[two, view if view % 2 else 0]
        else:
            hashes[one, view] = hashes[two, view]
        expected.append([one, two])
    # Symmetric: its own views are no other picture.
    hashes[50] = hashes[50, 0]
    near = near_pictures(hashes, 6, splits, is_across=is_across)
    assert near.pairs.dtype == np.int64
    assert near.pairs.tolist() == expected
    assert near.bits.tolist() == [0] * len(expected)
    assert not near_pictures(hashes, 6, splits, is_across=not is_across).pairs.size


def test_hashes_become_rows() -> None:
    assert hashes_array([]).shape == (0, 1 + NUM_VIEWS, 16)
    one, two = bytes(16 * (1 + NUM_VIEWS)), bytes(range(16)) * (1 + NUM_VIEWS)
    assert hashes_array([one, two])[:, -1].tolist() == [[0] * 16, list(range(16))]
