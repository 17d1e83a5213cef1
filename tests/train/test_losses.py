"""Losses held against torch's, and what they make a network learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from imgcls_ray.train.losses import IGNORED, Loss, class_weights, focal_losses, log_priors

LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 2], dtype=np.int32)
CPU = torch.device("cpu")


def make_loss(labels: np.ndarray = LABELS, num_classes: int = 3, **options: Any) -> Loss:
    return Loss(labels, num_classes, device=CPU, **options)


def drawn(count: int = 32, num_classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(count, num_classes, generator=generator)
    return logits, torch.randint(0, num_classes, (count,), generator=generator)


def mixed(target: torch.Tensor, share: float = 0.3) -> torch.Tensor:
    one_hot = F.one_hot(target, 3).float()
    return share * one_hot + (1 - share) * one_hot.roll(1, 0)


def optimum(loss: Loss, target: torch.Tensor, num_images: int) -> torch.Tensor:
    """The logits of a network that only knows which of two kinds an image is of; an image of kind k has class k."""
    logits = torch.zeros(2, 3, requires_grad=True)
    optimizer: Any = torch.optim.LBFGS([logits], max_iter=200)
    kinds = target.argmax(1) if target.ndim == 2 else target

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(logits[kinds], target) / num_images
        torch.autograd.backward(value)
        return value

    optimizer.step(closure)
    return logits.detach()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("is_mixed", [False, True])
def test_plain_loss_is_torchs(smoothing: float, is_mixed: bool) -> None:
    logits, target = drawn()
    given = mixed(target) if is_mixed else target
    expected = F.cross_entropy(logits, given, reduction="sum", label_smoothing=smoothing)
    assert make_loss(label_smoothing=smoothing)(logits, given).item() == pytest.approx(expected.item())


def test_balanced_weights_are_torchs_where_nothing_is_smoothed() -> None:
    logits, target = drawn()
    weights = torch.tensor([8 / 18, 8 / 3, 8 / 3])
    expected = F.cross_entropy(logits, target, weight=weights, reduction="sum")
    assert make_loss(is_weighted=True)(logits, target).item() == pytest.approx(expected.item())


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert class_weights(np.bincount(LABELS)).tolist() == pytest.approx(expected.tolist())


def test_a_smoothed_image_counts_for_the_weight_of_its_class() -> None:
    logits, target = drawn()
    losses = F.cross_entropy(logits, target, reduction="none", label_smoothing=0.1)
    expected = (torch.tensor([8 / 18, 8 / 3, 8 / 3])[target] * losses).sum()
    loss = make_loss(is_weighted=True, label_smoothing=0.1)
    assert loss(logits, target).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("is_mixed", [False, True])
def test_class_weights_weight_images_and_not_their_smoothing(is_mixed: bool) -> None:
    # 20 to 1, and a class without images: an optimum of the smoothed loss must keep the frequent class right.
    labels = np.repeat([0, 1], [160, 8]).astype(np.int32)
    target = torch.tensor(labels).long()
    given = F.one_hot(target, 3).float() if is_mixed else target
    logits = optimum(make_loss(labels, is_weighted=True, label_smoothing=0.1), given, len(labels))
    assert logits.argmax(1).tolist() == [0, 1]
    assert class_weights(np.bincount(labels, minlength=3)).tolist() == pytest.approx([168 / 320, 168 / 16, 0.0])


def test_a_mixed_image_has_the_weight_of_its_classes() -> None:
    logits, target = torch.randn(1, 3), torch.tensor([[0.25, 0.75, 0.0]])
    expected = (0.25 * 8 / 18 + 0.75 * 8 / 3) * F.cross_entropy(logits, target, label_smoothing=0.1)
    assert make_loss(is_weighted=True, label_smoothing=0.1)(logits, target).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("is_mixed", [False, True])
def test_focal_loss_without_a_gamma_is_torchs_cross_entropy(smoothing: float, is_mixed: bool) -> None:
    logits, target = drawn()
    given = mixed(target) if is_mixed else target
    expected = F.cross_entropy(logits, given, reduction="none", label_smoothing=smoothing)
    assert torch.allclose(focal_losses(logits, given, gamma=0.0, label_smoothing=smoothing), expected, atol=1e-6)


def test_focal_loss_of_two_classes_is_torchvisions() -> None:
    from torchvision.ops import sigmoid_focal_loss

    logits, target = drawn(num_classes=2)
    # The sigmoid of a difference of logits is the softmax of two.
    expected = sigmoid_focal_loss(logits[:, 1] - logits[:, 0], target.float(), alpha=-1, gamma=2.0)
    assert torch.allclose(focal_losses(logits, target, gamma=2.0), expected, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_has_gradients_where_the_network_is_sure(gamma: float) -> None:
    logits = torch.tensor([[80.0, 0.0, 0.0], [0.0, 80.0, 0.0]], requires_grad=True)
    torch.autograd.backward(focal_losses(logits, torch.tensor([0, 0]), gamma=gamma).sum())
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[1, 0] < -0.9


@pytest.mark.parametrize("options", [{}, {"focal_gamma": 2.0}, {"is_weighted": True}, {"logit_adjustment": 1.0}])
def test_what_is_ignored_adds_nothing(options: dict[str, Any]) -> None:
    loss, (logits, target) = make_loss(label_smoothing=0.1, **options), drawn()
    some = target.clone()
    some[5:] = IGNORED
    assert loss(logits, some).item() == pytest.approx(loss(logits[:5], target[:5]).item())


@pytest.mark.parametrize("is_mixed", [False, True])
def test_adjusted_logits_are_those_of_the_paper(is_mixed: bool) -> None:
    logits, target = drawn()
    given = mixed(target) if is_mixed else target
    # Menon et al. 2021, equation 10: the softmax cross-entropy of f + tau log(prior).
    adjusted = logits + 1.5 * torch.tensor([6 / 8, 1 / 8, 1 / 8]).log()
    expected = F.cross_entropy(adjusted, given, reduction="sum")
    assert make_loss(logit_adjustment=1.5)(logits, given).item() == pytest.approx(expected.item(), rel=1e-5)


def test_what_is_learnt_with_adjusted_logits_does_not_depend_on_the_shares_of_the_classes() -> None:
    # Of one kind of image, whose classes come 6:1:1: plainly learnt logits are the log shares, adjusted ones are equal.
    target = torch.tensor(LABELS).long()
    for tau, expected in ((0.0, [6 / 8, 1 / 8, 1 / 8]), (1.0, [1 / 3] * 3)):
        logits = torch.zeros(1, 3, requires_grad=True)
        optimizer = torch.optim.SGD([logits], lr=1.0)
        for _ in range(200):
            optimizer.zero_grad()
            torch.autograd.backward(make_loss(logit_adjustment=tau)(logits.expand(8, 3), target) / 8)
            optimizer.step()
        assert logits.softmax(1)[0].tolist() == pytest.approx(expected, abs=1e-3)


def test_a_class_that_was_never_shown_has_no_head_start() -> None:
    priors = log_priors(np.array([6, 2, 0]))
    assert priors.tolist() == pytest.approx(np.log([6 / 8, 2 / 8, 6 / 8]).tolist())
    logits, _ = drawn()
    loss = make_loss(np.array([0, 0, 1], np.int32), logit_adjustment=1.0, label_smoothing=0.1)
    assert loss(logits, torch.zeros(32, dtype=torch.int64)).isfinite()
