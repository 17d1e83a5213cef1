"""Commands at once, in random order, that die and wake up late: no row is lost, none is doubled.

They label, merge and read, and merged files may be removed at once. Inputs come, go away and come back.

Attacks G1 and G4. ``python -m tests.predict.schedules`` plays as many as one likes.
"""

from __future__ import annotations

import pytest

from tests.predict.schedules import run_schedule, work_off_without_claims

# Ten thousand are among the slow tests.
_NUM_SCHEDULES = 40


def test_no_schedule_loses_or_doubles_a_row() -> None:
    outcomes = {seed: run_schedule(seed) for seed in range(_NUM_SCHEDULES)}
    assert {seed: outcome for seed, outcome in outcomes.items() if not outcome.is_sound} == {}
    # They must not pass because nothing happened.
    assert sum(outcome.num_deaths for outcome in outcomes.values()) > 20
    assert sum(outcome.num_refused for outcome in outcomes.values()) > 20
    assert sum(outcome.num_merged for outcome in outcomes.values()) > 20
    assert sum(outcome.num_reads for outcome in outcomes.values()) > 8
    assert sum(outcome.num_vanished for outcome in outcomes.values()) > 20
    assert sum(outcome.num_returned for outcome in outcomes.values()) > 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_schedule_of_ten_thousand_loses_or_doubles_a_row() -> None:
    assert [seed for seed in range(10_000) if not run_schedule(seed).is_sound] == []


def test_the_schedules_find_what_a_number_without_a_claim_does() -> None:
    """A run with nothing to label took its number without claiming it, and ended another run's plan."""
    outcomes = [run_schedule(seed, work_off_without_claims) for seed in range(105, 120)]
    assert any(outcome.lost for outcome in outcomes)
    assert any(outcome.problems for outcome in outcomes)


def test_a_seed_is_a_schedule() -> None:
    assert run_schedule(7) == run_schedule(7)
