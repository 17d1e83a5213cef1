"""What was fitted to a model judges its answers, and changes none of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from imgcls_ray.models.calibration import (
    NOTHING_IS_ACCEPTED,
    Calibration,
    Thresholds,
    best_probability,
    ood_scores,
    trust_in,
)
from imgcls_ray.models.classifier import top_k_scores

LOGITS = np.random.default_rng(0).normal(0, 4, (50, 7)).astype(np.float32)


def thresholds(threshold: float, by_class: dict[int, float] | None = None) -> Thresholds:
    about: dict[str, Any] = {"target_precision": 0.9, "confidence": 0.95, "split": "val", "num_images": 9}
    return Thresholds(threshold=threshold, by_class=by_class or {}, coverage=0.5, **about)


def test_at_temperature_one_the_probability_is_the_score() -> None:
    _, scores = top_k_scores(LOGITS, 1)
    assert best_probability(LOGITS, 1.0) == pytest.approx(scores[:, 0], rel=1e-6)


def test_the_probability_is_the_softmax_of_the_divided_logits() -> None:
    _, scores = top_k_scores(LOGITS / np.float32(2.5), 1)
    assert best_probability(LOGITS, 2.5) == pytest.approx(scores[:, 0], rel=1e-6)


def test_a_small_temperature_overflows_nothing() -> None:
    assert best_probability(1e4 * LOGITS, 1 / 16).tolist() == [1.0] * len(LOGITS)


def test_a_label_is_accepted_from_the_threshold_of_its_class_on() -> None:
    chosen = thresholds(0.5, {2: 0.25, 3: NOTHING_IS_ACCEPTED})
    class_ids = np.array([0, 0, 2, 2, 3])
    scores = np.array([0.5, 0.499, 0.25, 0.249, 1.0], np.float32)
    assert chosen.accepts(class_ids, scores).tolist() == [True, False, True, False, False]


def test_what_is_not_fitted_is_not_told() -> None:
    class_ids, scores = top_k_scores(LOGITS, 1)
    trust = trust_in(Calibration(), LOGITS, class_ids[:, 0], scores[:, 0])
    assert (trust.probabilities, trust.accepted) == (None, None)
    assert len(trust.ood_scores) == len(LOGITS)


def test_an_image_is_judged_alike_whatever_stands_beside_it() -> None:
    alone = [(ood_scores(row[None])[0], best_probability(row[None], 1.7)[0]) for row in LOGITS]
    assert alone == list(zip(ood_scores(LOGITS), best_probability(LOGITS, 1.7), strict=True))


def test_weak_logits_are_less_like_the_training_set() -> None:
    strong, weak = (np.array([row], np.float32) for row in ([12, 0, -3], [1, 0, 0]))
    assert ood_scores(weak)[0] > ood_scores(strong)[0]


def test_it_comes_back_from_json_as_it_was() -> None:
    fitted = Calibration(temperature=1.3, thresholds=thresholds(float(np.float32(0.7)), {11: 0.9}))
    assert Calibration.model_validate_json(fitted.model_dump_json()) == fitted


@pytest.mark.parametrize(
    ("fitted", "words"),
    [
        (Calibration(), "no temperature and no thresholds"),
        (Calibration(temperature=1.314), "temperature 1.31 and no thresholds"),
        (Calibration(temperature=2, thresholds=thresholds(1)), "temperature 2 and thresholds for a precision of 0.9"),
    ],
)
def test_it_has_words(fitted: Calibration, words: str) -> None:
    assert fitted.in_words == words
