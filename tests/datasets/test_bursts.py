"""Every picture that is nearly another one is told, whatever bursts of frames are beside it, at few comparisons."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imgcls_ray.datasets.bursts import Confirmed, confirm_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable


class Scenes:
    """Pictures of scenes: two of one scene are equal, others are not."""

    def __init__(self, scenes: list[int]) -> None:
        self.scenes = np.array(scenes)
        self.num_compared = self.num_rounds = 0

    def confirm(self, pairs: Iterable[tuple[int, int]], *, max_compared: int = 10_000) -> Confirmed:
        rows = np.array(list(pairs), np.int64).reshape(-1, 2)
        return confirm_pairs(
            rows,
            np.zeros(len(rows)),
            self.compare,
            num_pictures=len(self.scenes),
            largest=5.0,
            max_compared=max_compared,
        )

    def compare(self, pairs: np.ndarray) -> np.ndarray:
        self.num_compared += len(pairs)
        self.num_rounds += 1
        return np.where(self.scenes[pairs[:, 0]] == self.scenes[pairs[:, 1]], 1.0, 99.0)


def test_a_burst_of_frames_costs_a_comparison_for_each() -> None:
    scenes = Scenes([0] * 200)
    found = scenes.confirm(itertools.combinations(range(200), 2))
    assert len(found.pairs) == scenes.num_compared == 199
    assert set(found.pairs.flat) == set(range(200))
    assert not len(found.left)
    assert found.differences.tolist() == [1.0] * 199


@pytest.mark.parametrize("seed", range(3))
def test_every_picture_with_a_partner_gets_one_and_no_other_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scenes = Scenes(rng.integers(0, 12, 40).tolist())
    pairs = [pair for pair in itertools.combinations(range(40), 2) if rng.random() < 0.4]
    found = scenes.confirm(pairs)
    are_near = {pair for pair in pairs if scenes.scenes[pair[0]] == scenes.scenes[pair[1]]}
    assert {tuple(pair) for pair in found.pairs.tolist()} <= are_near
    assert set(found.pairs.flat) == {place for pair in are_near for place in pair}
    assert not len(found.left)


def test_two_scenes_that_look_alike_are_compared_in_few_rounds() -> None:
    scenes = Scenes([0, 1] * 60)
    found = scenes.confirm(itertools.combinations(range(120), 2))
    assert len(found.pairs) == 118
    assert not len(found.left)
    # 3,600 pairs are of two scenes, and no one of them connects anything.
    assert scenes.num_rounds < 20


def test_what_there_is_no_time_for_is_told() -> None:
    scenes = Scenes(list(range(10)))
    found = scenes.confirm(itertools.combinations(range(10), 2), max_compared=20)
    assert scenes.num_compared == 20
    assert (len(found.pairs), len(found.left)) == (0, 25)


def test_without_pairs_nothing_is_compared() -> None:
    found = Scenes([0, 0]).confirm([])
    assert (len(found.pairs), len(found.left)) == (0, 0)
