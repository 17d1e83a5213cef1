"""The statistics of batch norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from imgcls_ray.train.batch_norm import BatchNorms


@pytest.mark.parametrize(("count", "learns"), [(0, False), (1, False), (2, True)])
def test_statistics_are_learnt_from_two_images_at_least(count: int, learns: bool) -> None:
    # What comes without images is a black one, which no picture looks like.
    norm = nn.BatchNorm1d(3)
    with BatchNorms(norm).for_images(count):
        norm(torch.ones(max(count, 1), 3))
    assert norm.running_mean is not None
    assert norm.running_mean.any().item() == learns
    assert norm.training


def test_one_image_with_places_has_statistics() -> None:
    norm = nn.BatchNorm2d(3)
    with BatchNorms(norm).for_images(1):
        norm(torch.ones(1, 3, 2, 2))
    assert norm.running_mean is not None
    assert norm.running_mean.all()


def test_a_norm_that_is_frozen_stays_so() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3).eval(), nn.BatchNorm1d(3))
    with BatchNorms(network).for_images(1):
        network(torch.ones(1, 3))
    assert [norm.training for norm in network] == [False, True]
