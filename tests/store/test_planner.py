"""Plans while the listing goes on: whole ones, one after the other, in the order of the listing, to its end."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.errors import InputError
from imgcls_ray.store import planner
from imgcls_ray.store.planner import plan_ahead
from tests.store.stores import infos

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.storage.files import FileInfo
    from imgcls_ray.store.plan import Spool

ROWS_PER_PLAN = 10


@pytest.fixture
def small_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten inputs are a plan, and nobody has to wait for it."""
    monkeypatch.setattr(planner, "_PLAN_AFTER_S", 0.0)
    monkeypatch.setattr(planner, "_PLAN_ROWS", ROWS_PER_PLAN)
    monkeypatch.setattr(planner, "_ROWS", 5)


class HeldListing:
    """A listing that gives some inputs and then waits, again and again, until the test lets it go on."""

    def __init__(self, files: Iterator[FileInfo]) -> None:
        self._files, self._tickets = files, threading.Semaphore(0)
        self.num_given = 0

    def let_through(self, count: int) -> None:
        self._tickets.release(count)

    def __iter__(self) -> Iterator[FileInfo]:
        for info in self._files:
            self._tickets.acquire()
            self.num_given += 1
            yield info


def uris(spool: Spool) -> list[str]:
    return [uri for batch in spool.batches() for uri in batch.column("uri").to_pylist()]


def uris_of(files: Iterator[FileInfo]) -> list[str]:
    return [info.uri for info in files]


def wait_until(is_so: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def planning_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "plan"]


def test_a_short_listing_is_one_plan() -> None:
    with plan_ahead(infos(5000)) as plans:
        assert [uris(spool) for spool in plans] == [uris_of(infos(5000))]


def test_inputs_reach_the_plan_with_their_size_version_and_time() -> None:
    with plan_ahead(infos(3)) as plans:
        [batch] = next(plans).batches()
        assert [tuple(row.values()) for row in batch.to_pylist()] == list(infos(3))


def test_a_listing_that_is_short_in_time_is_one_plan_however_many_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "_PLAN_ROWS", ROWS_PER_PLAN)
    monkeypatch.setattr(planner, "_ROWS", 5)
    with plan_ahead(infos(200)) as plans:
        assert [spool.num_images for spool in plans] == [200]


def test_a_listing_that_is_long_in_time_waits_for_enough_inputs(
    monkeypatch: pytest.MonkeyPatch, small_plans: None
) -> None:
    monkeypatch.setattr(planner, "_PLAN_ROWS", 1000)
    with plan_ahead(infos(200)) as plans:
        assert [spool.num_images for spool in plans] == [200]


def test_the_first_plan_does_not_wait_for_the_end_of_the_listing(small_plans: None) -> None:
    listing = HeldListing(infos(100))
    listing.let_through(ROWS_PER_PLAN)
    with plan_ahead(iter(listing)) as plans:
        first = next(plans)
        assert listing.num_given < 100
        assert uris(first) == uris_of(infos(ROWS_PER_PLAN))
        listing.let_through(100)


def test_a_long_listing_is_several_plans_that_hold_it_all_in_order(small_plans: None) -> None:
    listing = HeldListing(infos(33))
    listing.let_through(ROWS_PER_PLAN)
    found = []
    with plan_ahead(iter(listing)) as plans:
        for spool in plans:
            found.append(uris(spool))
            listing.let_through(ROWS_PER_PLAN)
    assert len(found) > 1
    assert list(itertools.chain(*found)) == uris_of(infos(33))


def test_a_plan_that_was_given_out_does_not_grow(small_plans: None) -> None:
    listing = HeldListing(infos(60))
    listing.let_through(ROWS_PER_PLAN)
    with plan_ahead(iter(listing)) as plans:
        first = next(plans)
        listing.let_through(25)
        wait_until(lambda: listing.num_given >= 35)
        assert (first.num_images, len(uris(first))) == (ROWS_PER_PLAN, ROWS_PER_PLAN)
        listing.let_through(100)


def test_no_plan_but_the_first_is_empty(small_plans: None) -> None:
    listing = HeldListing(infos(ROWS_PER_PLAN))
    listing.let_through(ROWS_PER_PLAN)
    with plan_ahead(iter(listing)) as plans:
        # Whether the end was seen before or after the first plan was taken, there is nothing for a second.
        assert [spool.num_images for spool in plans] == [ROWS_PER_PLAN]


def test_an_empty_listing_is_one_empty_plan() -> None:
    with plan_ahead(infos(0)) as plans:
        assert [(spool.num_images, uris(spool)) for spool in plans] == [(0, [])]


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (7, 7), (30, 20)])
def test_a_limit_takes_the_first_inputs(limit: int, expected: int) -> None:
    with plan_ahead(infos(20), limit=limit) as plans:
        assert [uris(spool) for spool in plans] == [uris_of(infos(expected))]


def test_a_limit_counts_over_all_plans(small_plans: None) -> None:
    listing = HeldListing(infos(100))
    listing.let_through(ROWS_PER_PLAN)
    found = []
    with plan_ahead(iter(listing), limit=24) as plans:
        for spool in plans:
            found += uris(spool)
            listing.let_through(ROWS_PER_PLAN)
    assert found == uris_of(infos(24))


def test_a_listing_that_fails_at_once_gives_no_plan() -> None:
    with pytest.raises(InputError, match="cannot be listed"), plan_ahead(failing(0)) as plans:
        next(plans)


def test_a_listing_that_fails_later_gives_what_it_had_before_it_fails(small_plans: None) -> None:
    found: list[str] = []
    with plan_ahead(failing(23)) as plans, pytest.raises(InputError, match="cannot be listed"):
        found.extend(uri for spool in plans for uri in uris(spool))
    # What a failed page may cost is one step of the listing, and the next command lists that again.
    assert found == uris_of(infos(20))


def test_a_listing_that_fails_after_a_plan_was_taken_fails_behind_the_rest(small_plans: None) -> None:
    listing = HeldListing(failing(20))
    listing.let_through(ROWS_PER_PLAN)
    with plan_ahead(iter(listing)) as plans:
        first = uris(next(plans))
        listing.let_through(100)
        second = uris(next(plans))
        with pytest.raises(InputError, match="cannot be listed"):
            next(plans)
    assert first + second == uris_of(infos(20))


def failing(after: int) -> Iterator[FileInfo]:
    yield from infos(after)
    raise InputError("/in: cannot be listed")


def test_who_leaves_early_stops_the_listing(small_plans: None) -> None:
    given = 0

    def endless() -> Iterator[FileInfo]:
        nonlocal given
        for info in infos(10**9):
            given += 1
            yield info

    with plan_ahead(endless()) as plans:
        next(plans)
    assert not planning_threads()
    before = given
    time.sleep(0.05)
    assert given == before


def test_an_error_of_the_block_stops_the_listing_and_is_raised(small_plans: None) -> None:
    def fail() -> None:
        with plan_ahead(infos(10**9)) as plans:
            next(plans)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not planning_threads()


def test_a_listing_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, small_plans: None) -> None:
    monkeypatch.setattr(planner, "_JOIN_S", 0.1)
    listing = HeldListing(infos(100))
    listing.let_through(ROWS_PER_PLAN)
    start = time.monotonic()
    with plan_ahead(iter(listing)) as plans:
        next(plans)
    assert time.monotonic() - start < 5
    listing.let_through(100)
    wait_until(lambda: not planning_threads())
