"""Profiles of parts add up to that of the whole, and tell what images are like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.looks import looks_of
from imgcls_ray.models.classifier import Prediction
from imgcls_ray.models.profile import FEATURES, Profile, profile_of

if TYPE_CHECKING:
    from imgcls_ray.models.calibration import Decision


def prediction(seed: int) -> Prediction:
    random = np.random.default_rng(seed)
    scores = np.sort(random.dirichlet(np.ones(3)).astype(np.float32))[::-1]
    looks = random.uniform(0, 120, 3).astype(np.float32)
    size = int(random.integers(32, 4000))
    ids = random.permutation(3).astype(np.int32)
    decision: Decision = "accepted" if seed % 4 else "unsure"
    return Prediction(size, 480, ids, scores, ood_score=-4.0, looks=looks, decision=decision)


def test_parts_add_up_to_the_whole() -> None:
    results = [prediction(seed) for seed in range(100)]
    parts = [profile_of(results[start : start + 30]) for start in range(0, 100, 30)]
    assert sum(parts, Profile()) == profile_of(results)
    assert profile_of(results).num_images == 100
    assert profile_of(results).share_accepted == 0.75
    assert [sum(profile_of(results).counts[name].values()) for name in FEATURES] == [100] * len(FEATURES)


def test_images_with_an_error_do_not_count() -> None:
    error = ImageError(ImageErrorCode.EMPTY)
    assert profile_of([error, prediction(0), error]) == profile_of([prediction(0)])
    assert profile_of([error]) == Profile()


def test_what_an_engine_does_not_tell_is_left_out() -> None:
    [plain] = [Prediction(64, 48, np.array([2]), np.ones(1, np.float32))]
    assert {name: bool(counts) for name, counts in profile_of([plain]).counts.items()} == {
        **dict.fromkeys(FEATURES, True),
        **dict.fromkeys(("unlike", "brightness", "contrast", "sharpness", "decision"), False),
    }
    assert profile_of([plain]).share_accepted is None


def test_scores_of_a_network_that_diverged_have_few_bins() -> None:
    scores = (float(score) for score in np.linspace(-1e38, 1e38, 100))
    profile = profile_of(Prediction(9, 9, np.array([0]), np.ones(1, np.float32), ood_score=one) for one in scores)
    assert profile.counts["unlike"] == {-1000: 50, 1000: 50}


def test_it_comes_back_from_json_as_it_was() -> None:
    profile = profile_of([prediction(seed) for seed in range(20)])
    assert Profile.model_validate_json(profile.model_dump_json()) == profile


@pytest.mark.parametrize("count", [0, -1, 2**70])
def test_counts_that_nobody_counted_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=r"counts\.size\.1"):
        Profile.model_validate({"num_images": 1, "counts": {"size": {"1": count}}})


@pytest.mark.parametrize("side", [8, 64, 224])
def test_looks_are_those_of_the_pixels(side: int) -> None:
    flat = np.full((side, side, 3), 80, np.uint8)
    stripes = flat.copy()
    stripes[:, ::2] = 100
    looks = looks_of(np.stack([flat, stripes]))
    assert looks[0].tolist() == [80, 0, 0]
    assert looks[1, 2] == 20


def test_looks_do_not_depend_on_the_batch() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (7, 96, 96, 3), np.uint8)
    assert np.array_equal(looks_of(batch), np.concatenate([looks_of(one[None]) for one in batch]))
