"""Thresholds keep the precision that they promise, as often as they promise it."""

from __future__ import annotations

import numpy as np
import pytest

from imgcls_ray.evaluate.thresholds import fewest_images, fit_thresholds, risk_coverage
from imgcls_ray.models.calibration import NOTHING_IS_ACCEPTED, Thresholds


def draw(num_images: int, *, seed: int, classes: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes, scores and whether the label is correct; a score is the chance that it is."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(4, 0.6, num_images).astype(np.float32)
    return rng.integers(classes, size=num_images), scores, rng.random(num_images) < scores


def fit(class_ids: np.ndarray, scores: np.ndarray, is_correct: np.ndarray, target: float) -> Thresholds:
    return fit_thresholds(class_ids, scores, is_correct, target_precision=target, split="val")


def test_the_promise_is_broken_in_at_most_one_of_twenty_samples() -> None:
    _, population, _ = draw(200_000, seed=99)
    num_broken = num_found = 0
    for seed in range(100):
        threshold = fit(*draw(800, seed=seed), 0.95).by_class[0]
        if threshold != NOTHING_IS_ACCEPTED:
            num_found += 1
            # A score is the chance of its label, so the precision of all that is accepted is their mean.
            num_broken += float(population[population >= np.float32(threshold)].mean()) < 0.95
    assert num_found >= 80
    assert num_broken <= 0.05 * num_found


def test_a_model_that_is_always_correct_has_all_labels_accepted() -> None:
    classes, scores, _ = draw(400, seed=0, classes=20)
    found = fit(classes, scores, np.ones(400, bool), 0.98)
    assert (found.threshold, found.by_class, found.coverage) == (0, {}, 1)


def test_few_images_prove_nothing() -> None:
    needed = fewest_images(0.98, 0.05)
    classes, scores, _ = draw(needed - 1, seed=0, classes=20)
    found = fit(classes, scores, np.ones(needed - 1, bool), 0.98)
    assert (found.threshold, found.coverage) == (NOTHING_IS_ACCEPTED, 0)


def test_a_mistake_among_the_surest_does_not_end_the_search() -> None:
    classes, scores, _ = draw(2000, seed=0, classes=40)
    is_correct = np.ones(2000, bool)
    is_correct[scores.argmax()] = False
    assert fit(classes, scores, is_correct, 0.98).coverage == 1


def test_a_class_with_enough_images_has_a_threshold_of_its_own() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat([3, 8, 9], [2000, 2000, 30])
    scores = rng.random(4030).astype(np.float32)
    # Class 8 is wrong in half of what is below 0.5.
    is_correct = (classes != 8) | (scores > 0.5) | (rng.random(4030) < 0.5)
    found = fit(classes, scores, is_correct, 0.95)
    assert sorted(found.by_class) == [3, 8]
    assert found.by_class[3] == 0
    assert 0.3 < found.by_class[8] < 0.6
    assert found.threshold == NOTHING_IS_ACCEPTED


def test_equal_scores_are_accepted_together_or_not_at_all() -> None:
    classes, scores = np.arange(600) % 60, np.repeat(np.array([1, 0.5], np.float32), [300, 300])
    is_correct = np.arange(600) < 400
    found = fit(classes, scores, is_correct, 0.95)
    assert found.accepts(classes, scores).sum() == 300
    assert 0.5 < found.threshold <= 1


def test_scores_that_are_rounded_to_one_are_accepted() -> None:
    classes, scores = np.arange(1000) % 60, np.ones(1000, np.float32)
    scores[800:] = np.linspace(0.9, 0.1, 200)
    found = fit(classes, scores, np.arange(1000) < 800, 0.98)
    assert 0.8 < found.threshold <= 1
    assert 0.8 <= found.coverage < 0.82


def test_the_curve_has_each_score_once() -> None:
    curve = risk_coverage(np.array([0.5, 0.9, 0.5, 0.1], np.float32), np.array([True, True, False, False]))
    assert curve.coverage.tolist() == [0.25, 0.75, 1]
    assert curve.precision == pytest.approx([1, 2 / 3, 0.5])
