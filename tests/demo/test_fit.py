"""The demo's training loop: it learns, repeats itself exactly, and refuses arrays that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from imgcls_ray.demo.draw import CLASS_NAMES, draw_shape
from imgcls_ray.demo.fit import fit_demo_model

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def draw(names: tuple[str, ...], *, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    pictures = [
        np.asarray(draw_shape(name, size=32, seed=(seed, class_id, index)))
        for class_id, name in enumerate(names)
        for index in range(count)
    ]
    return np.stack(pictures), np.repeat(np.arange(len(names)), count)


def tiny_network(num_classes: int, *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for num_in, num_out in [(3, 16), (16, 32), (32, 64)]:
        layers += [nn.Conv2d(num_in, num_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, num_classes))


def predict(network: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Class ids (N,), normalized as the docstring of the loop says, written differently."""
    scaled = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    with torch.no_grad():
        logits = network(torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32)))
    return np.asarray(logits.argmax(1).numpy())


def weights(network: nn.Module) -> list[np.ndarray]:
    return [value.numpy().copy() for value in network.state_dict().values()]


def test_learns_shapes_it_has_not_seen() -> None:
    names = ("circle", "star")
    network = tiny_network(len(names))
    pixels, labels = draw(names, count=80, seed=0)
    accuracy = fit_demo_model(network, pixels, labels, mean=MEAN, std=STD, epochs=12, batch_size=16)
    new_pixels, new_labels = draw(names, count=40, seed=1)
    assert accuracy >= 0.9
    assert (predict(network, new_pixels) == new_labels).mean() >= 0.9


def test_same_seed_gives_the_same_weights() -> None:
    pixels, labels = draw(CLASS_NAMES, count=6, seed=0)
    runs = []
    for _ in range(2):
        network = tiny_network(len(CLASS_NAMES))
        fit_demo_model(network, pixels, labels, mean=MEAN, std=STD, epochs=2, batch_size=8, seed=3)
        runs.append(weights(network))
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first, second)


def test_another_seed_gives_other_weights() -> None:
    pixels, labels = draw(CLASS_NAMES, count=6, seed=0)
    runs = []
    for seed in (3, 4):
        network = tiny_network(len(CLASS_NAMES))
        fit_demo_model(network, pixels, labels, mean=MEAN, std=STD, epochs=2, batch_size=8, seed=seed)
        runs.append(weights(network))
    assert not np.array_equal(runs[0][0], runs[1][0])


def test_callers_random_state_and_pixels_are_untouched() -> None:
    pixels, labels = draw(CLASS_NAMES, count=4, seed=0)
    network, pixels_before = tiny_network(len(CLASS_NAMES)), pixels.copy()
    state = torch.random.get_rng_state()
    fit_demo_model(network, pixels, labels, mean=MEAN, std=STD, epochs=1, batch_size=8)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(pixels, pixels_before)


def test_tells_each_epoch_and_leaves_eval_mode() -> None:
    pixels, labels = draw(CLASS_NAMES, count=4, seed=0)
    network = tiny_network(len(CLASS_NAMES))
    told: list[tuple[int, float]] = []
    accuracy = fit_demo_model(
        network,
        pixels,
        labels,
        mean=MEAN,
        std=STD,
        epochs=3,
        batch_size=8,
        on_epoch=lambda epoch, value: told.append((epoch, value)),
    )
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert told[-1][1] == accuracy
    assert not network.training


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (np.zeros((8, 4, 4, 3), np.float32), np.zeros(8, np.int64), "pixels must be uint8"),
        (np.zeros((8, 3, 4, 4), np.uint8), np.zeros(8, np.int64), "pixels must be uint8"),
        (np.zeros((8, 4, 4, 3), np.uint8), np.zeros(7, np.int64), r"labels must be int64 \(8,\), not int64 \(7,\)"),
        (np.zeros((8, 4, 4, 3), np.uint8), np.zeros(8, np.float32), "labels must be int64"),
        (np.zeros((3, 4, 4, 3), np.uint8), np.zeros(3, np.int64), "3 pictures do not fill one batch of 8"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(pixels: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_demo_model(tiny_network(2), pixels, labels, mean=MEAN, std=STD, epochs=1, batch_size=8)
