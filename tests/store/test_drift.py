"""Drift is what chance does not explain."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from imgcls_ray.models.classifier import Prediction
from imgcls_ray.models.profile import FEATURES, Profile, profile_of
from imgcls_ray.store import drift as module
from imgcls_ray.store.drift import Drift, compare


def sample(num_images: int, seed: int, *, darker_by: float = 0, first_class: float = 0.1) -> Profile:
    random = np.random.default_rng(seed)
    shares = np.array([first_class, *[(1 - first_class) / 9] * 9])
    return profile_of(
        Prediction(
            int(side),
            48,
            np.array([random.choice(10, p=shares)]),
            random.beta(8, 1, 1).astype(np.float32),
            ood_score=random.normal(-9, 2),
            looks=np.array([random.normal(120 - darker_by, 30), random.normal(50, 9), random.gamma(3, 3)]),
        )
        for side in random.integers(64, 640, num_images)
    )


REFERENCE = sample(400, 1000)


def compared(run: Profile) -> Drift:
    drift = compare(REFERENCE, run)
    assert drift is not None
    return drift


def test_samples_of_one_population_hardly_ever_drift() -> None:
    alarms = sum(bool(compared(sample(200, seed)).real) for seed in range(40))
    assert alarms <= 2


def test_a_change_is_found_and_named() -> None:
    for seed in range(5):
        drift = compared(sample(200, seed, darker_by=40))
        assert [feature.name for feature in drift.real] == ["brightness"]
        assert drift.worst == drift.features[0].divergence > 0.1
        assert drift.words.startswith("brightness 0.")


def test_other_shares_of_the_classes_are_found() -> None:
    assert [feature.name for feature in compared(sample(300, 0, first_class=0.5)).real] == ["label"]


def test_of_few_images_only_large_changes_are_more_than_noise() -> None:
    few, many = (compared(sample(count, 0, darker_by=12)) for count in (15, 3000))
    noise = [{feature.name: feature.noise for feature in drift.features}["brightness"] for drift in (few, many)]
    assert noise[0] > 5 * noise[1]
    assert (bool(few.real), bool(many.real)) == (False, True)


def test_without_drift_it_is_told_what_is_as_unlike_as_the_last_of_the_reference() -> None:
    drift = compared(REFERENCE)
    assert drift.worst == 0
    assert drift.share_unlike == drift.share_unlike_reference <= 0.01
    assert drift.words.startswith("none above noise; ")


def test_what_the_reference_never_has_is_far_from_it() -> None:
    [far] = [f for f in compared(sample(200, 0, darker_by=-400)).features if f.name == "brightness"]
    assert far.divergence == pytest.approx(1)


def test_nothing_cannot_be_compared() -> None:
    assert compare(REFERENCE, Profile()) is None
    assert compare(Profile(), REFERENCE) is None


def test_of_many_classes_the_draws_are_not_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NUM_DRAWS", 200)
    monkeypatch.setattr(module, "_MAX_AT_ONCE", 200_000)
    profile = Profile(num_images=200_000, counts={"label": dict.fromkeys(range(20_000), 10)})
    tracemalloc.start()
    try:
        drift = compare(profile, profile)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert drift is not None
    assert drift.features[0].noise > 0
    # All at once: 200 x 20,000 x 8 bytes, several times.
    assert peak < 30e6


def test_its_record_has_every_feature() -> None:
    record: dict[str, Any] = compared(sample(100, 0, darker_by=60)).to_record()
    assert sorted([*record["features"], "decision"]) == sorted(FEATURES)
    assert record["drift"] == record["features"]["brightness"]["divergence"]
