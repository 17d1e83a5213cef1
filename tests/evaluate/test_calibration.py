"""The calibration error is what its definition says, and the temperature is found again that made the logits."""

from __future__ import annotations

import numpy as np
import pytest

from imgcls_ray.evaluate.calibration import (
    NUM_BINS,
    TEMPERATURES,
    calibration_table,
    empty_table,
    fit_temperature,
    reliability_at,
)

ONE = np.ones(1)


def draw(num_images: int, num_classes: int, *, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are so many times too large for their labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (num_images, num_classes)).astype(np.float32)
    chances = softmax(logits)
    labels = (rng.random((num_images, 1)) > chances.cumsum(axis=1)).sum(axis=1).clip(max=num_classes - 1)
    return logits * np.float32(temperature), labels


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    chances: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return chances


def test_the_error_of_two_bins_is_that_of_a_hand_computation() -> None:
    # Confidence 0.9 three times, right twice; 0.6 twice, right once.
    confidence = np.array([0.9, 0.9, 0.9, 0.6, 0.6])
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1)).astype(np.float32)
    reliability = reliability_at(1.0, ONE, calibration_table(logits, np.array([0, 0, 1, 0, 1]), ONE))
    assert reliability.ece == pytest.approx((3 * abs(0.9 - 2 / 3) + 2 * abs(0.6 - 1 / 2)) / 5, abs=1e-6)
    nll = -np.log([0.9, 0.9, 0.1, 0.6, 0.4]).mean()
    assert reliability.mean_nll == pytest.approx(nll, abs=1e-6)


def test_error_and_likelihood_are_those_of_a_plain_loop() -> None:
    logits, labels = draw(500, 7, temperature=2.5)
    for temperature in TEMPERATURES[::20]:
        gaps, nll = np.zeros((NUM_BINS, 2)), 0.0
        for chances, label in zip(softmax(logits / np.float32(temperature)), labels, strict=True):
            place = next(i for i in range(NUM_BINS) if chances.max() <= (i + 1) / NUM_BINS + 1e-12)
            gaps[place] += chances.max(), chances.argmax() == label
            nll -= np.log(chances[label])
        table = calibration_table(logits, labels, np.array([temperature]))
        reliability = reliability_at(float(temperature), np.array([temperature]), table)
        assert reliability.ece == pytest.approx(np.abs(gaps[:, 0] - gaps[:, 1]).sum() / 500, abs=1e-5)
        assert reliability.mean_nll == pytest.approx(nll / 500, rel=1e-5)
        np.testing.assert_allclose(reliability.confidence, gaps[:, 0], rtol=1e-5)
        assert reliability.num_correct.tolist() == gaps[:, 1].tolist()


def test_tables_of_parts_add_up_to_the_table_of_the_whole() -> None:
    logits, labels = draw(300, 5, temperature=1.0)
    parts = empty_table(len(TEMPERATURES))
    for start in range(0, 300, 64):
        parts += calibration_table(logits[start : start + 64], labels[start : start + 64], TEMPERATURES)
    np.testing.assert_allclose(parts, calibration_table(logits, labels, TEMPERATURES), rtol=1e-9)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7, 5.0])
def test_the_temperature_is_found_again_and_takes_the_error_away(temperature: float) -> None:
    logits, labels = draw(20_000, 10, temperature=temperature)
    table = calibration_table(logits, labels, TEMPERATURES)
    found = fit_temperature(TEMPERATURES, table)
    assert found == pytest.approx(temperature, rel=0.03)
    assert found is not None
    assert reliability_at(found, TEMPERATURES, table).ece < 0.02
    if temperature != 1.0:
        assert reliability_at(1.0, TEMPERATURES, table).ece > 0.1


def test_the_temperature_is_near_the_minimum_of_the_likelihood() -> None:
    logits, labels = draw(2000, 10, temperature=1.9, seed=3)
    found = fit_temperature(TEMPERATURES, calibration_table(logits, labels, TEMPERATURES))
    assert found is not None
    near = found * np.array([0.97, 1.0, 1.03])
    nll = calibration_table(logits, labels, near)[:, 0]
    assert nll.argmin() == 1
    finest = found * np.linspace(0.97, 1.03, 61)
    assert nll[1] / 2000 - calibration_table(logits, labels, finest)[:, 0].min() / 2000 < 1e-3


@pytest.mark.parametrize(("num_images", "temperature"), [(50, 1.37), (500, 2.9), (2000, 6.1)])
def test_what_is_told_of_the_temperature_is_of_itself(num_images: int, temperature: float) -> None:
    logits, labels = draw(num_images, 10, temperature=temperature, seed=1)
    table = calibration_table(logits, labels, TEMPERATURES)
    found = fit_temperature(TEMPERATURES, table)
    assert found is not None
    assert found == round(found, 6)
    # Bins of a few images make steps, which no interpolation follows.
    own = calibration_table(logits / np.float32(found), labels, ONE)
    told = reliability_at(found, TEMPERATURES, table)
    assert told.ece == pytest.approx(reliability_at(1.0, ONE, own).ece, abs=1e-6)
    assert told.mean_nll == pytest.approx(reliability_at(1.0, ONE, own).mean_nll, abs=1e-6)


def test_the_grid_is_in_order_with_1_in_it_and_fine_where_networks_are() -> None:
    steps = np.diff(np.log2(TEMPERATURES))
    assert (TEMPERATURES[0], TEMPERATURES[-1]) == (1 / 16, 64)
    assert 1.0 in TEMPERATURES
    assert steps.min() > 0
    assert steps.max() < 1 / 5.9
    assert steps[(TEMPERATURES[:-1] >= 0.25) & (TEMPERATURES[1:] <= 8)].max() < 1 / 23.9


def test_answers_that_are_all_right_hold_no_temperature() -> None:
    logits, _ = draw(100, 5, temperature=1.0)
    assert fit_temperature(TEMPERATURES, calibration_table(logits, logits.argmax(axis=1), TEMPERATURES)) is None


def test_answers_that_are_all_wrong_hold_no_temperature() -> None:
    logits, _ = draw(100, 5, temperature=1.0)
    assert fit_temperature(TEMPERATURES, calibration_table(logits, logits.argmin(axis=1), TEMPERATURES)) is None


def test_one_class_is_certain() -> None:
    table = calibration_table(np.array([[3.0], [-1.0]], np.float32), np.zeros(2, int), TEMPERATURES)
    reliability = reliability_at(1.0, TEMPERATURES, table)
    assert (reliability.ece, reliability.mean_nll) == (0, 0)
    assert fit_temperature(TEMPERATURES, table) is None


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[4e4, -4e4, 0], [0, 4e4, -4e4]], np.float32)
    assert np.isfinite(calibration_table(logits, np.array([1, 1]), TEMPERATURES)).all()
